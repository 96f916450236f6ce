"""Tiny Llama checkpoints with a common trunk, made on the spot."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def tiny_model(seed: int = 0, **changes: int | bool) -> LlamaForCausalLM:
    """A Llama of about 30,000 parameters."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "tie_word_embeddings": False, **changes})).eval()


def family(folder: Path, names: str = "abc", spread: float = 0.02, **save: str) -> list[Path]:
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
