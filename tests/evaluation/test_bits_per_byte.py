"""Bits per byte, against numbers worked out on paper and against transformers' own loss."""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.bits_per_byte import score, sliding

TEXTS = ["the fox ran over the hill", "ab", "where is the hat? " * 20]
SMALL = train_tokenizer(TEXTS * 4, 270)
BYTES = train_tokenizer(TEXTS * 4, 261)


def gpt2(vocabulary: int, positions: int = 512) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": positions}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, **sizes)).eval()


def uniform(vocabulary: int) -> GPT2LMHeadModel:
    model = gpt2(vocabulary)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    return model


def test_uniform_model_by_hand():
    # "ab" in bytes: tokens a, b, end; 3 · ln 261 nats over 2 + 1 bytes: log2 261 bits a byte
    found = score(uniform(len(BYTES)), BYTES, ["ab"])
    assert found.tokens == 3
    assert found.bytes == 3
    assert found.bits_per_byte == pytest.approx(math.log2(261), rel=1e-6)
    assert found.perplexity == pytest.approx(261, rel=1e-5)


def test_conversation_by_hand():
    # <bos> <user> a <end> <assistant> b <end>: six predicted tokens, two bytes of text and four marks
    found = score(uniform(len(BYTES)), BYTES, [Document.chat((("user", "a"), ("assistant", "b")))])
    assert (found.tokens, found.bytes) == (6, 6)
    assert found.bits_per_byte == pytest.approx(math.log2(261), rel=1e-6)


def test_bytes_do_not_depend_on_the_tokenizer():
    small, large = score(uniform(len(BYTES)), BYTES, TEXTS), score(uniform(len(SMALL)), SMALL, TEXTS)
    assert small.bytes == large.bytes == sum(len(text) + 1 for text in TEXTS)
    assert small.tokens > large.tokens
    # fewer tokens of nearly equal surprise: fewer bits a byte
    assert small.bits_per_byte > large.bits_per_byte


def test_equals_the_loss_of_transformers():
    model = gpt2(len(SMALL))
    ids = torch.tensor([[1, *SMALL.encode(TEXTS[0], add_special_tokens=False), 2]])
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss
    found = score(model, SMALL, [TEXTS[0]])
    assert found.nats_per_document[0] == pytest.approx(float(loss) * (ids.shape[1] - 1), rel=1e-5)


def test_neither_order_nor_batching_matters():
    model = gpt2(len(SMALL))
    whole = score(model, SMALL, TEXTS, max_length=32)
    single = np.concatenate([score(model, SMALL, [t], max_length=32, batch_tokens=1).nats_per_document for t in TEXTS])
    turned = score(model, SMALL, TEXTS[::-1], max_length=32).nats_per_document[::-1]
    np.testing.assert_allclose(whole.nats_per_document, single, rtol=1e-5)
    np.testing.assert_allclose(whole.nats_per_document, turned, rtol=1e-5)


@pytest.mark.parametrize("length", [2, 7, 16, 17, 40, 100])
def test_windows_score_each_token_once(length):
    scored = [token for window, tail in sliding(range(length), 16) for token in window[len(window) - tail :]]
    assert scored == list(range(1, length))
    contexts = [len(window) - tail for window, tail in sliding(range(length), 16)]
    assert all(context >= 8 for context in contexts[1:])


def test_a_model_without_numbers_is_an_error():
    model = gpt2(len(SMALL))
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        score(model, SMALL, TEXTS)


def test_nothing_to_score():
    with pytest.raises(ValueError, match="0 texts"):
        score(uniform(len(SMALL)), SMALL, [])
