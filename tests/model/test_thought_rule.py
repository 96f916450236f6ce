"""Thinking on request, never, or as the model likes; budgets; one prompt and batches alike."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.model.generation import generate_tokens, spoken
from agent_forge.model.row_generation import generate_rows
from agent_forge.model.thought_rule import ThoughtRule, thought_rule

THINK, CLOSE, END = 15, 16, 2
PROMPT = [1, 7, 8]


@pytest.fixture
def thinker(tokenizer):
    tokenizer.add_special_tokens({"extra_special_tokens": ["<think>", "</think>"]}, replace_extra_special_tokens=False)
    assert tokenizer.convert_tokens_to_ids(["<think>", "</think>"]) == [THINK, CLOSE]
    return tokenizer


def test_masks_by_hand():
    rule = ThoughtRule(THINK, CLOSE, [END], "auto", budget=2)
    rows = torch.tensor([[1, 7, 8, 9], [1, 7, THINK, 9], [1, THINK, 9, 9], [THINK, 9, CLOSE, 9]])
    found = rule(rows, torch.ones(4, 20))
    assert (found[:, CLOSE] == torch.tensor([float("-inf"), 1, 0, float("-inf")])).all()
    assert (found[:, THINK] == torch.tensor([1, float("-inf"), float("-inf"), 1])).all()
    assert (found[:, END] == torch.tensor([1, float("-inf"), float("-inf"), 1])).all()
    assert (found[:, 5] == torch.tensor([1, 1, float("-inf"), 1])).all()


def test_think_puts_the_mark_in_and_the_budget_closes_it(small, thinker):
    found = list(generate_tokens(small(), thinker, PROMPT, max_tokens=12, think=True, thought_budget=4))
    assert found[0] == THINK
    assert found.index(CLOSE) <= 5
    assert found.count(CLOSE) >= 1
    assert len(found) <= 12


def test_no_thought_where_thinking_is_off(small, thinker):
    model = small()
    with torch.no_grad():  # a model that wants to think above all
        model.lm_head.weight[THINK] = model(torch.tensor([PROMPT])).hidden[0, -1] * 100
    assert THINK in list(generate_tokens(model, thinker, PROMPT, max_tokens=8))
    assert not {THINK, CLOSE} & set(generate_tokens(model, thinker, PROMPT, max_tokens=8, think=False))


@pytest.mark.parametrize("think", [True, False, "auto"])
def test_one_prompt_and_a_batch_say_the_same(small, thinker, think):
    model = small()
    prompts = [PROMPT, [1, 9], [1, 7, 7, 10, 11]]
    together = generate_rows(model, thinker, prompts, 10, think=think, thought_budget=3)
    alone = [
        list(generate_tokens(model, thinker, prompt, max_tokens=10, think=think, thought_budget=3))
        for prompt in prompts
    ]
    assert together == alone


@given(st.integers(0, 6), st.integers(0, 99))
def test_no_thought_is_longer_than_its_budget(budget, seed):
    """A random writer under the rule: every thought is closed in time and never nested."""
    rule = ThoughtRule(THINK, CLOSE, [END], "auto", budget)
    generator = torch.Generator().manual_seed(seed)
    row = [1]
    for _ in range(30):
        logits = torch.randn(1, 18, generator=generator)
        row.append(int(rule(torch.tensor([row]), logits).argmax()))
    inside = None
    for token in row:
        if token == THINK:
            assert inside is None
            inside = 0
        elif token == CLOSE:
            assert inside is not None
            inside = None
        elif inside is not None:
            assert token != END
            inside += 1
            assert inside <= budget


def test_models_without_thought_tokens(small, tokenizer):
    model = small()
    assert thought_rule(tokenizer, [END], "auto", 5) is None
    plain = list(generate_tokens(model, None, PROMPT, max_tokens=6))
    assert list(generate_tokens(model, None, PROMPT, max_tokens=6, think=False)) == plain
    with pytest.raises(ValueError, match="not taught to think"):
        generate_tokens(model, tokenizer, PROMPT, max_tokens=6, think=True)


def test_wrong_settings_are_refused(small, thinker):
    with pytest.raises(ValueError, match="thought_budget -1"):
        generate_tokens(small(), thinker, PROMPT, max_tokens=6, thought_budget=-1)
    with pytest.raises(ValueError, match="sometimes"):
        generate_tokens(small(), thinker, PROMPT, max_tokens=6, think="sometimes")


def test_words_and_thoughts_of_a_stream_are_told_apart(thinker):
    seen = []
    tokens = [5, THINK, 6, 7, CLOSE, 8, THINK, 9]
    assert list(spoken(thinker, tokens, seen)) == [("said", "a"), ("thought", "b c"), ("said", "d"), ("thought", "e")]
    assert seen == tokens


def test_words_of_a_tokenizer_without_thoughts(tokenizer):
    assert list(spoken(tokenizer, [5, 6])) == [("said", "a"), ("said", " b")]
