"""A tokenizer with thoughts, a tiny Llama and a tiny Cognate that the tests of this room share."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.phases.quietstar.thought_sampling import Marks

VOCABULARY = 60
MARKS = Marks(opening=58, closing=59, forbidden=(0, 1, 2, 3, 4, 58, 59))


def shaken(model):
    """A model none of whose parameters is still at a neutral start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return model.eval()


@pytest.fixture
def make():
    def build(kind="cognate", **changes):
        torch.manual_seed(0)
        if kind == "llama":
            shape = {
                "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
            }  # fmt: skip
            return shaken(LlamaForCausalLM(LlamaConfig(**{**shape, **changes})))
        shape = {
            "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
            "num_attention_heads": 4, "sliding_window": 64, "short_convolution": 0, "memory_size": 16,
            "memory_heads": 2, "memory_chunk": 4,
        }  # fmt: skip
        return shaken(CognateForCausalLM(CognateConfig(**{**shape, **changes})))

    return build
