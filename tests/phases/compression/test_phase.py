"""The phase end to end on a tiny model that has learned its text: gates, roll-back, report, determinism."""

from __future__ import annotations

import copy
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.contract import Phase, one
from agent_forge.errors import HandoffError, Interrupted
from agent_forge.model import ternary as ternary_room
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.expert_vectors import basis_of, identity, save_experts
from agent_forge.phases.compression import forge_file
from agent_forge.phases.compression.alone import compress
from agent_forge.phases.compression.attachments import attachments
from agent_forge.phases.compression.config import CompressionConfig
from agent_forge.phases.compression.phase import FILE_NAME, PHASE
from agent_forge.pipeline.handoffs import check_handoffs
from agent_forge.pipeline.memory_context import MemoryContext

QUICK = {"codecs": ("plain", "ternary", "uniform"), "small_tensor_weights": 256, "ladder": False, "max_length": 64,
         "calibration_documents": 8, "evaluation_documents": 8}  # fmt: skip


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory) -> Path:
    from agent_forge.data.corpora import ingest

    folder = tmp_path_factory.mktemp("data")
    texts = [
        f"The fox number {i} saw {i * 3} birds, and {i % 4} of them flew over the old mill. " * 3 for i in range(90)
    ]
    (folder / "foxes.txt").write_text("\n\n".join(texts), encoding="utf-8")
    ingest([str(folder / "foxes.txt")], folder / "corpus", seed=0)
    return folder / "corpus"


@pytest.fixture(scope="module")
def checkpoint(trained, tokenizer, tmp_path_factory) -> Path:
    model = copy.deepcopy(trained)
    for name, module in list(model.named_modules()):
        if name.endswith("proj"):
            ternary_room.TernaryLinear.from_linear(module, ternary_room.Layout(32))
    return save_model(model, tokenizer, tmp_path_factory.mktemp("checkpoint") / "model")


def run(folder: Path, checkpoint: Path, corpus: Path, **settings) -> tuple[MemoryContext, Path]:
    context = MemoryContext(folder)
    inputs = {"model": context.adopt("checkpoint", checkpoint), "corpus": context.adopt("corpus", corpus)}
    if settings.pop("trunk", False):
        inputs["trunk"] = inputs["model"]
    outputs = PHASE.run(CompressionConfig(**{**QUICK, **settings}), inputs, context)
    return context, context.path(one(outputs, "agent")) / FILE_NAME


def test_contract():
    assert isinstance(PHASE, Phase)
    assert PHASE.consumes == {"model": "checkpoint", "corpus": "corpus", "trunk": "checkpoint?"}
    assert PHASE.produces == {"agent": "agent_file"}


def test_reports_what_the_file_on_disk_does(tmp_path, checkpoint, corpus_folder):
    context, path = run(tmp_path, checkpoint, corpus_folder, trunk=True)
    found = context.measured
    assert found["compression/size_bytes"] == path.stat().st_size
    assert found["compression/round_trip_exact"] == 1.0
    assert found["compression/retention_fraction"] > 0.95
    assert found["compression/special_rows_identical"] == 1.0
    assert found["compression/retention_of_trunk"] == pytest.approx(found["compression/retention_fraction"], rel=1e-6)
    assert found["compression/bits_per_weight"] < 16
    agent, _ = forge_file.read_model(path)
    plan = {row["tensor"]: row["option"] for row in context.attachments["compression_plan"]}
    assert plan["model.layers.0.mlp.up_proj.weight"].startswith("ternary/")
    linears = ternary_room.ternary_linears(agent)
    assert len(linears) == 14  # the activations of a ternary agent are rounded, as in the model that was measured
    assert all(layer.frozen and layer.activation_bits == 8 for layer in linears.values())


def test_risk_002_rows_of_special_tokens_survive_the_coarsest_codec(tmp_path, checkpoint, corpus_folder):
    coarse = {"forced": {"embedding": "uniform/4.5"}, "min_retention_fraction": 0.0}
    context, path = run(tmp_path, checkpoint, corpus_folder, **coarse)
    before, after = (
        model.get_input_embeddings().weight for model in (load_model(checkpoint)[0], forge_file.read_model(path)[0])
    )
    assert torch.equal(after[:5], before[:5])  # pad, bos, end, user, assistant
    assert not torch.equal(after[5:], before[5:])
    assert context.measured["compression/special_rows_identical"] == 1.0
    assert context.measured["compression/round_trip_exact"] == 1.0


@pytest.mark.parametrize("ternary", [True, False])
def test_a_model_with_experts_keeps_the_matrices_that_they_were_made_for(
    tmp_path, checkpoint, trained, tokenizer, corpus_folder, ternary
):
    source = tmp_path / "source"
    if ternary:
        shutil.copytree(checkpoint, source)
    else:
        save_model(trained, tokenizer, source)
    model, _ = load_model(source)
    basis = basis_of(model, 2)
    coarse = {"max_bytes": 1, "min_retention_fraction": 0.01}
    bare = run(tmp_path / "bare", source, corpus_folder, **coarse)[1]
    assert basis_of(forge_file.read_model(bare)[0], 2).digest != basis.digest  # what there is to go wrong
    save_experts(source, [identity(basis, "same")], basis)
    file = run(tmp_path / "run", source, corpus_folder, **coarse)[1]
    assert basis_of(forge_file.read_model(file)[0], 2).digest == basis.digest
    with pytest.raises(ValueError, match="experts"):
        run(tmp_path / "forced", source, corpus_folder, **coarse, forced={"linear": "uniform/3"})


def test_an_agent_whose_experts_do_not_fit_is_not_handed_on(tmp_path, checkpoint, corpus_folder):
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    model, _ = load_model(source)
    for place, fault in enumerate((False, True)):
        if fault:  # experts of other weights
            with torch.no_grad():
                next(iter(ternary_room.ternary_linears(model).values())).weight.mul_(2)
        basis = basis_of(model, 2)
        save_experts(source, [identity(basis, "same")], basis)
        AgentDesign(experts={"same": 1.0}).save(source)
        context = MemoryContext(tmp_path / str(place))
        inputs = {"model": context.adopt("checkpoint", source), "corpus": context.adopt("corpus", corpus_folder)}
        outputs = PHASE.run(CompressionConfig(**QUICK), inputs, context)
        with pytest.raises(HandoffError, match="made for a base") if fault else nullcontext():
            check_handoffs(("one_forge_file",), outputs, context)


def test_equal_runs_give_equal_bytes(tmp_path, checkpoint, corpus_folder):
    files = [run(tmp_path / name, checkpoint, corpus_folder)[1].read_bytes() for name in ("a", "b")]
    assert files[0] == files[1]


def test_a_tighter_bound_gives_a_larger_file(tmp_path, checkpoint, corpus_folder):
    sizes = [
        run(tmp_path / str(bound), checkpoint, corpus_folder, max_bits_per_byte_increase_fraction=bound)[0].measured[
            "compression/size_bytes"
        ]
        for bound in (0.0, 0.002, 0.05)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_an_unreachable_size_is_said_and_the_larger_one_accepted(tmp_path, checkpoint, corpus_folder):
    context, path = run(tmp_path, checkpoint, corpus_folder, max_bytes=1000)
    assert path.stat().st_size > 1000
    assert [failure for failure, _, _ in context.warnings] == ["PR8"]
    assert "larger size is accepted" in context.warnings[0][1]
    assert context.measured["compression/retention_fraction"] > 0.9


def test_ladder_is_measured_from_large_to_small(tmp_path, checkpoint, corpus_folder):
    context, path = run(tmp_path, checkpoint, corpus_folder, ladder=True)
    rows = {row["name"]: row for row in context.attachments["ladder"]}
    sizes = [row["bytes"] for row in context.attachments["ladder"]]
    assert sizes == sorted(sizes, reverse=True)
    chosen = rows["chosen .forge file"]
    assert chosen["bytes"] == path.stat().st_size
    assert chosen["bits_per_byte"] == pytest.approx(context.measured["compression/bits_per_byte"], rel=1e-9)
    assert rows["fp16"]["bytes"] > rows["int8 + zstd"]["bytes"] > rows["int4 + zstd"]["bytes"]
    assert rows["everything at about 0.1 bit"]["retention"] < rows["int8 + zstd"]["retention"]
    assert chosen["bytes"] < rows["ternary 2-bit + zstd, rest fp16"]["bytes"]


def test_stopping_leaves_no_file(tmp_path, checkpoint, corpus_folder):
    context = MemoryContext(tmp_path)
    context.stopping = True
    inputs = {"model": context.adopt("checkpoint", checkpoint), "corpus": context.adopt("corpus", corpus_folder)}
    with pytest.raises(Interrupted):
        PHASE.run(CompressionConfig(**QUICK), inputs, context)
    assert not list(tmp_path.rglob("*.forge"))


def test_any_checkpoint_alone_without_text(tmp_path, trained, tokenizer):
    """`agent-forge compress` on a plain Llama: text is sampled from the model itself. Its tools come along."""
    trained.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    world_toolbox(Knowledge({"Ada Vane": {"town": "Aldale"}})).save(tmp_path / "llama")
    facts = compress(tmp_path / "llama", tmp_path / "out.forge", min_retention=0.97, config=CompressionConfig(**QUICK))
    stock = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tmp_path / "llama").parameters())
    assert facts["round_trip_exact"] == 1.0
    assert facts["retention_fraction"] > 0.93
    assert facts["size_bytes"] < stock
    files = attachments(tmp_path / "out.forge")
    assert files == {name: (tmp_path / "llama" / name).read_bytes() for name in ("tools.json", "knowledge.json")}
    model, loaded = forge_file.read_model(tmp_path / "out.forge")
    out = model.generate(torch.tensor([loaded("The fox")["input_ids"]]), max_new_tokens=5, do_sample=False)
    assert out.shape[1] > 5


def test_all_codecs_together_on_a_full_precision_model(tmp_path, trained, tokenizer):
    trained.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    texts = [f"The fox number {i} saw {i * 3} birds, and {i % 4} of them flew over the old mill. " for i in range(30)]
    settings = {key: value for key, value in QUICK.items() if key != "codecs"}
    facts = compress(tmp_path / "llama", tmp_path / "out.forge", texts=texts, config=CompressionConfig(**settings))
    assert facts["round_trip_exact"] == 1.0
    reasons = {entry["option"].partition("/")[0]: entry["reason"] for entry in facts["skipped"]}
    assert set(reasons) == {"seedlm", "hyper", "vptq"}
    assert "uniform coding needs" in reasons["seedlm"]
    assert "codebook" in reasons["vptq"]
