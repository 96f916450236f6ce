"""Greedy decoding of the page under the thought rule, against the rule of Python."""

import random

import pytest
import torch
from tests.phases.edge.pages import ask_page

from agent_forge.model.thought_rule import ThoughtRule

OPENING, CLOSING, STOP, SIZE = 10, 11, [2], 12


def case(rng):
    ids = rng.choices(range(12), weights=[1] * 10 + [3, 3], k=rng.randrange(1, 30))
    scores = [rng.choice([rng.uniform(-5, 5), 1.0, float(place)]) for place in range(SIZE)]
    return {"ids": ids, "scores": [round(score, 3) for score in scores]}


@pytest.mark.parametrize("think", [True, False, "auto"])
@pytest.mark.parametrize("budget", [0, 1, 5])
def test_the_rule_is_that_of_python(think, budget):
    rng = random.Random(budget)
    cases = [case(rng) for _ in range(300)]
    options = {"opening": OPENING, "closing": CLOSING, "stop": STOP, "think": think, "budget": budget}
    rule = ThoughtRule(OPENING, CLOSING, STOP, think, budget)
    for given, there in zip(cases, ask_page("rule", options=options, cases=cases), strict=True):
        wanted = rule(torch.tensor([given["ids"]]), torch.tensor([given["scores"]]))[0]
        logits = torch.tensor([float("-inf") if each is None else each for each in there["logits"]])
        assert torch.equal(logits, wanted), given
        assert there["likeliest"] == int(wanted.argmax())
        assert there["prefix"] == rule.prefix()


def test_the_first_of_equals_is_taken():
    options = {"opening": OPENING, "closing": CLOSING, "stop": STOP, "think": "auto", "budget": 3}
    (found,) = ask_page("rule", options=options, cases=[{"ids": [1], "scores": [0, 3, 3, *[0] * 9]}])
    assert found["likeliest"] == 1


@pytest.mark.parametrize("apart", [False, True], ids=["at once", "one by one"])
def test_a_question_is_read_without_experts_and_averaged_over_its_tokens(apart):
    got = ask_page("read", ids=[5, 7, 12], apart=apart, experts=[0.5, -1.0])
    parts = [[5], [7], [12]] if apart else [[5, 7, 12]]
    reading, step = got["seen"][:-1], got["seen"][-1]
    assert [row["ids"] for row in reading] == parts
    assert {tuple(row["worn"]) for row in reading} == {(0, 0)}
    assert [row["before"] for row in reading] == list(range(len(parts)))
    assert got["features"] == pytest.approx([8.0, sum(range(len(parts))) / len(parts)])
    assert (step["worn"], step["before"], step["wanted"]) == ([0.5, -1.0], 0, ["logits", "present_positions"])
