"""Retention: 1 for the model itself, less for a damaged one, and floors by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document, Task
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.retention import (
    allowed_loss,
    byte_entropy,
    kl_divergence,
    measure_reference,
    retained_fraction,
    retention,
    task_floor,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A corpus, its tokenizer, and a model trained on it for a moment."""
    folder = tmp_path_factory.mktemp("corpus") / "c"
    ingest(["synthetic"], folder, seed=1, synthetic_bytes=40_000, levels=[1])
    corpus = Corpus.open(folder)
    tokenizer = train_tokenizer(corpus.training_texts(), 400)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=1024, **sizes))
    shards = {domain: pack(corpus.documents(domain, "train"), tokenizer) for domain in corpus.domains}
    batches = Batches(shards, corpus.mixture(), sequence_length=64, batch_size=8, seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(60):
        batch = batches.batch(step)
        model(input_ids=batch["input_ids"], labels=batch["labels"]).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return corpus, tokenizer, model.eval()


def damaged(model, amount):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            if parameter.ndim == 2:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter += amount * parameter.std() * noise
    return other


def test_the_model_itself_keeps_everything(trained):
    corpus, tokenizer, model = trained
    found = retention(model, tokenizer, model, corpus, max_documents=8)
    assert found.retention_fraction == pytest.approx(1)
    assert found.perplexity_ratio == pytest.approx(1)
    assert found.kl_nats == pytest.approx(0, abs=1e-6)
    assert set(found.by_domain) == set(corpus.domains)
    assert found.task_retention is None
    assert found.to_json()["bits_per_byte"] == found.bits_per_byte


def test_damage_lowers_every_figure(trained):
    corpus, tokenizer, model = trained
    reference = measure_reference(model, tokenizer, corpus, max_documents=8)
    little, much = (
        retention(damaged(model, amount), tokenizer, model, corpus, reference=reference, max_documents=8)
        for amount in (0.1, 1.0)
    )
    assert 1 > little.retention_fraction > much.retention_fraction
    assert 1 < little.perplexity_ratio < much.perplexity_ratio
    assert 0 < little.kl_nats < much.kl_nats
    assert little.reference_bits_per_byte == much.reference_bits_per_byte


def test_a_reference_at_the_floor_is_told_and_the_ratio_of_bits_counts(trained):
    corpus, tokenizer, model = trained
    lost = copy.deepcopy(model)
    with torch.no_grad():
        lost.lm_head.weight.zero_()
    found = retention(model, tokenizer, lost, corpus, max_documents=4, max_kl_tokens=0)
    assert not found.floor_adjusted
    assert found.retention_fraction == found.reference_bits_per_byte / found.bits_per_byte > 1
    assert retention(model, tokenizer, model, corpus, max_documents=4, max_kl_tokens=0).floor_adjusted


def test_retained_fraction_by_hand():
    assert retained_fraction(2.5, 2.0, 4.0) == 0.75
    assert retained_fraction(4.0, 2.0, 4.0) == 0.0
    assert retained_fraction(6.0, 5.0, 4.0) == pytest.approx(5 / 6)
    assert retained_fraction(math.inf, 2.0, 4.0) == retained_fraction(math.nan, 5.0, 4.0) == 0.0
    assert allowed_loss(2.0, 4.0, 0.95) == pytest.approx(0.1)
    assert allowed_loss(5.0, 4.0, 0.0) == math.inf


@given(st.floats(0.1, 8), st.floats(0.1, 8), st.floats(0.01, 1))
def test_what_may_be_lost_leaves_exactly_the_fraction_that_must_stay(reference, floor, fraction):
    assume(abs(reference - floor) > 1e-3)
    loss = allowed_loss(reference, floor, fraction)
    assert loss >= 0
    assert retained_fraction(reference + loss, reference, floor) == pytest.approx(fraction, abs=1e-6)
    assert retained_fraction(reference, reference, floor) == 1


def test_tasks_are_measured_against_a_guess(trained):
    corpus, tokenizer, model = trained
    found = retention(model, tokenizer, model, corpus, max_documents=2, max_tasks=5, max_tokens=4, max_kl_tokens=0)
    assert found.task_accuracy == found.reference_task_accuracy
    assert found.task_retention in (None, 1.0)


def test_byte_entropy_by_hand():
    # "ab" and its closing mark (a newline): three bytes, equally often
    assert byte_entropy([Document("ab")]) == pytest.approx(math.log2(3))
    # a mark before and after each turn: a, b and four newlines
    expected = -(4 / 6 * math.log2(4 / 6) + 2 / 6 * math.log2(1 / 6))
    # the text's own newline between the turns stands for one of the marks
    assert byte_entropy([Document.chat((("user", "a"), ("assistant", "b")))]) == pytest.approx(expected)


def test_task_floor_by_hand():
    said = [Task("", answer, "k") for answer in ("yes", "yes", "no", "maybe")]
    chosen = [Task("", "a", "choice", choices=("a", "b", "c", "d"))] * 4
    assert task_floor(said) == 0.5
    assert task_floor(said + chosen) == pytest.approx((2 + 1) / 8)
    assert task_floor([]) == 0.0


def test_kl_by_hand(trained):
    _, tokenizer, model = trained
    one, other = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        one.lm_head.weight.zero_()
        other.lm_head.weight.zero_()
    assert kl_divergence(one, other, tokenizer, [Document("a fox")]) == 0.0
    uniform = np.full(len(tokenizer), 1 / len(tokenizer))
    ids = torch.tensor([[1, *tokenizer.encode("a fox", add_special_tokens=False), 2]])
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0, :-1].double(), -1).numpy()
    expected = (uniform * (np.log(uniform) - logs)).sum(-1).mean()
    assert kl_divergence(one, model, tokenizer, [Document("a fox")]) == pytest.approx(expected, rel=1e-4)
