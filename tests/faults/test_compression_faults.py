"""Failures of phase 8, injected: too coarse a codec (CF3), size out of reach (PR8), a full disk (ENV2), damage."""

from __future__ import annotations

import builtins
import errno
import io
import os
import random
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from agent_forge.contract import one
from agent_forge.data.corpora import ingest
from agent_forge.errors import ArtifactCorrupt, DiskFull
from agent_forge.model.checkpoint import save_model
from agent_forge.phases.compression.atomic_file import write_atomically
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.forge_file import read_model, verify
from agent_forge.phases.compression.phase import FILE_NAME, PHASE
from agent_forge.pipeline.memory_context import MemoryContext

TEXTS = [f"The fox number {i} saw {i * 3} birds, and {i % 4} of them flew over the old mill. " * 3 for i in range(90)]
QUICK = {"codecs": ("plain", "ternary", "uniform"), "small_tensor_weights": 256, "ladder": False, "max_length": 64,
         "calibration_documents": 8, "evaluation_documents": 8}  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "foxes.txt").write_text("\n\n".join(TEXTS), encoding="utf-8")
    ingest([str(folder / "foxes.txt")], folder / "corpus", seed=0)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|pad|>", "<|bos|>", "<|end|>"]
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|end|>"
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
        )
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = torch.tensor([[1, *tokenizer(text)["input_ids"]][:48] for text in TEXTS])
    for step in range(60):
        batch = rows[step % 8 :: 8]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_model(model.eval(), tokenizer, folder / "model")
    return folder / "model", folder / "corpus"


def run(folder: Path, inputs: tuple[Path, Path], **settings) -> tuple[MemoryContext, Path]:
    context = MemoryContext(folder)
    artifacts = {"model": context.adopt("checkpoint", inputs[0]), "corpus": context.adopt("corpus", inputs[1])}
    outputs = PHASE.run(CompressionConfig(**{**QUICK, **settings}), artifacts, context)
    return context, context.path(one(outputs, "agent")) / FILE_NAME


def test_cf3_a_codec_that_is_too_coarse_is_rolled_back_and_the_result_says_so(tmp_path, inputs):
    """Embedding and body forced to about 0.1 bit a weight: unusable, so the gate has to act."""
    forced = {"embedding": "uniform/4.5", "linear": "uniform/4.5"}
    context, path = run(tmp_path, inputs, forced=forced)
    stage = next(entry for entry in context.attachments["compression_stages"] if entry["stage"] == "uniform")
    assert stage["rolled_back"][0]["retention_fraction"] < 0.95  # the gate saw the damage …
    assert stage["retention_fraction"] >= 0.95  # … and what remains passes it
    assert {failure for failure, _, _ in context.warnings} == {"CF3"}
    assert context.measured["compression/rolled_back_groups"] == len(context.warnings) > 0
    assert context.measured["compression/retention_fraction"] > 0.9  # on the test split, from the file
    groups = {undone["group"] for undone in stage["rolled_back"]}
    assert groups <= {"embedding", "linear/0", "linear/1"}  # group by group, not all or nothing
    read_model(path)


def test_cf3_without_the_gate_the_damage_is_real(tmp_path, inputs):
    """The control: with a gate at 0 the same settings ruin the model, so the test above proves something."""
    forced = {"embedding": "uniform/4.5", "linear": "uniform/4.5"}
    context, _ = run(tmp_path, inputs, forced=forced, min_retention_fraction=0.0)
    assert context.measured["compression/retention_fraction"] < 0.8
    assert not context.warnings


def test_pr8_size_out_of_reach(tmp_path, inputs):
    context, path = run(tmp_path, inputs, max_bytes=2000)
    assert path.stat().st_size > 2000
    assert [failure for failure, _, _ in context.warnings] == ["PR8"]


class FullDisk(io.FileIO):
    """A file on a disk that has room for 100 more bytes."""

    def write(self, data) -> int:
        super().write(bytes(data)[:100])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_env2_a_full_disk_leaves_nothing_and_harms_nothing(tmp_path, inputs, monkeypatch):
    target = tmp_path / "kept" / "agent.forge"
    write_atomically(target, b"the earlier agent")
    opened = io.open

    def open_full(file, mode="r", *arguments, **keywords):
        if str(file).endswith(".part"):
            return FullDisk(file, "w")
        return opened(file, mode, *arguments, **keywords)

    monkeypatch.setattr(io, "open", open_full)
    monkeypatch.setattr(builtins, "open", open_full)
    with pytest.raises(DiskFull, match="free some space"):
        write_atomically(target, b"x" * 10_000)
    with pytest.raises(DiskFull):
        run(tmp_path / "run", inputs)
    monkeypatch.undo()
    assert target.read_bytes() == b"the earlier agent"
    assert not list(tmp_path.rglob("*.part"))
    assert not list((tmp_path / "run").rglob("*.forge"))


def test_altered_and_truncated_agents_are_refused(tmp_path, inputs):
    _, path = run(tmp_path, inputs)
    whole, rng = path.read_bytes(), random.Random(2)
    damaged = tmp_path / "damaged.forge"
    for _ in range(50):
        place = rng.randrange(len(whole))
        altered = whole[:place] + bytes([whole[place] ^ (1 << rng.randrange(8))]) + whole[place + 1 :]
        for blob in (altered, whole[:place]):
            damaged.write_bytes(blob)
            with pytest.raises(ArtifactCorrupt, match="section"):
                verify(damaged)
