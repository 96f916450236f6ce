"""A tiny Llama, a tiny Cognate and a byte-level tokenizer that the tests of this room share."""

from __future__ import annotations

import pytest
import torch

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM

TEXTS = [
    f"{name} has {count} red apples and eats {count - 1}." for name in ("Ann", "Bo", "Cy") for count in range(2, 40)
]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(TEXTS, 300)


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def make_cognate(tokenizer):
    def make(seed=0, **changes):
        torch.manual_seed(seed)
        shape = {
            "vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "memory_size": 16, "memory_heads": 2, "memory_chunk": 4, "gate_size": 12,
            "sliding_window": 64, "zero_init_output": False,
        }  # fmt: skip
        return CognateForCausalLM(CognateConfig(**{**shape, **changes})).eval()

    return make
