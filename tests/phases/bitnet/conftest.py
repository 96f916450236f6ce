"""A tiny Llama, a tiny Cognate and a byte-level tokenizer that the tests of this room share."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
def make_llama(tokenizer):
    def make(seed=0, hidden=32, tied=True, **changes):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=300, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied,
            bos_token_id=1, eos_token_id=2, pad_token_id=0, **changes,
        )  # fmt: skip
        return LlamaForCausalLM(config).eval()

    return make


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
