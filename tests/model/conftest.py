"""Small models and a small tokenizer that the tests of this room share."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from agent_forge.model import CognateConfig, CognateForCausalLM

SMALL = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "sliding_window": 8, "global_every": 4, "memory_size": 16, "memory_heads": 2, "memory_chunk": 4, "gate_size": 12,
    "short_convolution": 4, "zero_init_output": False,
}  # fmt: skip


def disturbed(config: CognateConfig, seed: int = 0) -> CognateForCausalLM:
    """A model none of whose parameters is still at a neutral start, so that every part has an effect."""
    torch.manual_seed(seed)
    model = CognateForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
        if model.halting is not None:
            # about half of the positions stop at each step
            model.halting.projection.bias.zero_()
    return model.eval()


@pytest.fixture
def small():
    return lambda **changes: disturbed(CognateConfig(**{**SMALL, **changes}))


@pytest.fixture
def make_cognate():
    return lambda **changes: disturbed(CognateConfig(**{**SMALL, "vocab_size": 300, **changes}))


@pytest.fixture
def tokenizer():
    words = ["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>", *"abcdefghij"]
    inner = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="a"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
    )  # fmt: skip
    made.chat_template = (
        "<|bos|>{% for m in messages %}{% if m.role == 'user' %}<|user|>{{ m.content }}<|end|>"
        "{% else %}<|assistant|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return made
