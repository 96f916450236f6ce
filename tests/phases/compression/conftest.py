"""Tiny real models and tokenizers."""

from __future__ import annotations

import copy

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = [f"The fox number {i} saw {i * 3} birds, and {i % 4} of them flew over the old mill. " * 3 for i in range(40)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|pad|>", "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(TEXTS, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|end|>"
    )
    tokenizer.chat_template = (
        "<|bos|>{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast, *, tied: bool = True, steps: int = 60) -> LlamaForCausalLM:
    """A Llama that has learned the texts a little, so that quality has something to lose."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rows = [[1, *tokenizer(text)["input_ids"]][:48] for text in TEXTS]
    ids = torch.tensor([row for row in rows if len(row) == 48])
    for step in range(steps):
        batch = ids[(step * 8) % 32 : (step * 8) % 32 + 8]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def make_ternary(model: LlamaForCausalLM, group: int = 64) -> None:
    """Body matrices to γ·{−1, 0, 1} with fp16 scales, in place."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                grouped = weight.view(weight.shape[0], -1, min(group, weight.shape[1]))
                scale = grouped.abs().mean(dim=2, keepdim=True).half().float()
                weight.copy_(((grouped / scale).round().clamp(-1, 1) * scale).view_as(weight))


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def trained(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_model(tokenizer)


@pytest.fixture(scope="session")
def untied(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return build_model(tokenizer, tied=False, steps=0)


@pytest.fixture
def ternary(trained: LlamaForCausalLM) -> LlamaForCausalLM:
    model = copy.deepcopy(trained)
    make_ternary(model)
    return model
