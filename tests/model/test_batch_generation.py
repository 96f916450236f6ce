"""Draws of a batch: repeatable, and torch's own generator is left alone."""

import torch

from agent_forge.model.batch_generation import generate_batch

PROMPTS = [[1, 7, 8], [1, 9], [1, 7, 7, 10, 11]]


def test_draws_are_repeatable_and_differ_by_seed(small, tokenizer):
    model = small()
    first = generate_batch(model, tokenizer, PROMPTS, 12, temperature=1.2, seed=3)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    assert generate_batch(model, tokenizer, PROMPTS, 12, temperature=1.2, seed=3) == first
    assert torch.equal(torch.rand(3), expected)
    assert generate_batch(model, tokenizer, PROMPTS, 12, temperature=1.2, seed=4) != first


def test_hardly_any_temperature_is_greedy(small, tokenizer):
    model = small()
    greedy = generate_batch(model, tokenizer, PROMPTS, 8)
    assert generate_batch(model, tokenizer, PROMPTS, 8, temperature=1e-4, seed=1) == greedy
