"""Tiny checkpoints with a common trunk, made on the spot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model.checkpoint import save_model
from agent_forge.pipeline.memory_context import MemoryContext

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


def tiny_model(seed: int = 0, **changes: int | bool) -> LlamaForCausalLM:
    """A Llama of about 30,000 parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": False, **changes})).eval()


def family(folder: Path, names: str = "abc", spread: float = 0.02, **save: Any) -> list[Path]:
    """Writes ``trunk`` and one specialist per letter: the trunk plus noise of its own, norms included."""
    trunk = tiny_model()
    trunk.save_pretrained(folder / "trunk", **save)
    start = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    paths = []
    for seed, name in enumerate(names, start=1):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, tensor in trunk.state_dict().items():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(start[key] + spread * noise)
        trunk.save_pretrained(folder / name, **save)
        paths.append(folder / name)
    return paths


def trained_family(folder: Path) -> None:
    """A corpus, a trunk trained on all of it, and three branches trained a little on one specialty each."""
    ingest(["synthetic"], folder / "corpus", seed=0, synthetic_bytes=120_000)
    corpus = Corpus.open(folder / "corpus")
    tokenizer = train_tokenizer(corpus.training_texts(100_000), 320)
    shards = {domain: pack(corpus.documents(domain, "train"), tokenizer) for domain in corpus.domains}

    def train(model: LlamaForCausalLM, mixture: dict[str, float], steps: int, seed: int) -> None:
        batches = Batches(shards, mixture, sequence_length=64, batch_size=8, seed=seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
        for step in range(steps):
            batch = batches.batch(step)
            model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    trunk = tiny_model(vocab_size=len(tokenizer))
    train(trunk, corpus.mixture(), 40, 0)
    save_model(trunk, tokenizer, folder / "trunk", {})
    for number, mixture in enumerate(corpus.specialties().values()):
        branch = tiny_model(vocab_size=len(tokenizer))
        branch.load_state_dict(trunk.state_dict())
        train(branch, mixture, 12, 1 + number)
        save_model(branch, tokenizer, folder / f"specialist{number}", {})


def phase_inputs(context: MemoryContext, folder: Path) -> dict[str, Any]:
    """The inputs of phase 2 from a folder that `trained_family` wrote."""
    return {
        "specialists": tuple(context.adopt("checkpoint", folder / f"specialist{i}") for i in range(3)),
        "trunk": context.adopt("checkpoint", folder / "trunk"),
        "corpus": context.adopt("corpus", folder / "corpus"),
    }


QUICK = {
    "generations": 2, "selection_documents": 2, "final_documents": 2, "test_documents": 8, "finalists": 2,
    "control_fraction": 0.5, "max_length": 64,
}  # fmt: skip
