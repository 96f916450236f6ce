"""Nats of the right answers' tokens, and the hardest of them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phases.quietstar.test_controls import controls
from tests.phases.quietstar.tiny import write_inputs

from agent_forge.config import build_config
from agent_forge.data.documents import Task
from agent_forge.data.tokenizer import encode_texts, thought_ids
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.quietstar.controls import run_controls
from agent_forge.phases.quietstar.habit import filler_id
from agent_forge.phases.quietstar.hardest_tokens import answer_token_nats, hardest, relative_gain
from agent_forge.phases.quietstar.measurement import hardest_figures
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens
from agent_forge.pipeline.gates import evaluate

NATS = st.lists(st.floats(0, 20), min_size=1, max_size=40).map(np.asarray)


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    model, tokenizer = load_model(write_inputs(tmp_path_factory.mktemp("quietstar")) / "model")
    add_thought_tokens(model, tokenizer)
    return model, tokenizer


def test_nats_are_those_of_each_token_given_all_before_it(thinker):
    model, _ = thinker
    prompts, answers = [[1, 3, 9, 2, 4], [1, 3, 12]], [[9, 10], [11]]
    found = answer_token_nats(model, prompts, answers)
    wanted = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        wanted += [-float(logits[len(prompt) + n - 1, token]) for n, token in enumerate(answer)]
    assert found == pytest.approx(wanted, abs=1e-5)
    assert answer_token_nats(model, prompts, answers, batch_tokens=1) == pytest.approx(found, abs=1e-5)
    # an answer without tokens has none to score
    assert answer_token_nats(model, prompts, [[], [11]]) == pytest.approx(found[2:], abs=1e-5)
    assert len(answer_token_nats(model, [], [])) == 0


def test_every_condition_is_scored_on_the_same_tokens(thinker):
    model, tokenizer = thinker
    tasks = [Task(f"Start with {n}, add 1. What is left?", str(n + 1), "thoughts/decompose") for n in range(8, 12)]
    found = run_controls(model, tokenizer, tasks, thought_budget=6, answer_tokens=3, coherence_bound=0.7)
    answers = encode_texts(tokenizer, [task.answer for task in tasks])
    assert np.bincount(found.questions).tolist() == [len(ids) for ids in answers]
    assert {name: len(nats) for name, nats in found.nats.items()} == dict.fromkeys(
        ("own", "off", "shuffled", "filler"), len(found.questions)
    )
    prompts = prompt_ids(tokenizer, [task.prompt for task in tasks])
    assert found.nats["off"].tolist() == answer_token_nats(model, prompts, answers).tolist()
    opening, closing = thought_ids(tokenizer)
    fillers = [[filler_id(tokenizer)] * count for count in found.tokens]
    after = [[*p, opening, *ids, closing] for p, ids in zip(prompts, fillers, strict=True)]
    assert found.nats["filler"].tolist() == answer_token_nats(model, after, answers).tolist()


def test_the_hardest_tenth_by_hand():
    nats = np.array([1.0, 5.0, 2.0, 5.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert np.flatnonzero(hardest(nats)).tolist() == [1]  # the first of two equal ones
    assert np.flatnonzero(hardest(np.tile(nats, 3))).tolist() == [1, 3, 11]
    assert hardest(nats[:1]).tolist() == [True]


@given(NATS, st.floats(0.01, 1))
def test_what_is_chosen_is_harder_than_what_is_not(nats, fraction):
    chosen = hardest(nats, fraction)
    assert 0 < chosen.sum() <= len(nats)
    assert chosen.sum() - 1 < fraction * len(nats) + 1e-6
    assert nats[chosen].min() >= max(nats[~chosen], default=0.0)


@pytest.mark.parametrize(("nats", "fraction"), [([], 0.1), ([1.0], 0.0), ([1.0], 1.1)])
def test_no_token_or_no_share_is_refused(nats, fraction):
    with pytest.raises(ValueError, match="at least one token"):
        hardest(np.asarray(nats), fraction)


def test_gain_by_hand():
    # 3 of 8 nats are left: 5/8 are saved; question 0 has two of the tokens
    found = relative_gain(np.array([1.0, 1.0, 1.0]), np.array([2.0, 2.0, 4.0]), np.array([0, 0, 5]))
    assert found.difference == pytest.approx(5 / 8)
    assert found.documents == 2
    assert found.low == pytest.approx(1 / 2)  # only question 0
    assert found.high == pytest.approx(3 / 4)  # only question 5


@settings(max_examples=20)
@given(NATS, st.floats(0.1, 10))
def test_equal_losses_gain_nothing_and_the_unit_does_not_matter(nats, unit):
    questions = np.arange(len(nats)) // 2
    assert relative_gain(nats, nats, questions).difference == 0
    nats = nats + 0.1
    half, scaled = relative_gain(nats / 2, nats, questions), relative_gain(unit * nats / 2, unit * nats, questions)
    assert half.difference == pytest.approx(0.5)
    assert (half.low, half.high) == pytest.approx((0.5, 0.5))
    assert scaled.difference == pytest.approx(0.5)


def test_a_control_that_is_certain_leaves_nothing_to_gain_and_much_to_lose():
    zero = np.zeros(3)
    assert relative_gain(zero, zero, np.arange(3)).difference == 0
    assert relative_gain(zero + 1, zero, np.arange(3)).difference < -1000


def test_hardness_by_a_compared_condition_would_flatter_the_other():
    """Three models that are equally good, with errors of their own: nobody gains, unless one of them chooses."""
    own, control, third = np.random.default_rng(0).exponential(2.0, (3, 4000))
    questions = np.arange(4000)
    fair, flattered = hardest(third), hardest(control)
    assert abs(relative_gain(own[fair], control[fair], questions[fair]).difference) < 0.15
    assert relative_gain(own[flattered], control[flattered], questions[flattered]).low > 0.5


def asked(own, off, filler):
    count = len(own)
    right = [True] * count
    nats = {"own": own, "off": off, "shuffled": [9.0] * count, "filler": filler}
    return controls(
        right, right, right, right, [0.9] * count,
        questions=np.arange(count), nats={name: np.asarray(values, float) for name, values in nats.items()},
    )  # fmt: skip


def test_figures_by_hand():
    given_nats = np.array([7.0, 1.0, 6.0, *[0.5] * 9])
    own, off, filler = [1.0, 9.0, 2.0, *[9.0] * 9], [4.0, 1.0, 2.0, *[1.0] * 9], [2.0, 1.0, 2.0, *[1.0] * 9]
    found = hardest_figures(asked(own, off, filler), given_nats)
    # the two hardest of twelve are the first and the third, whatever happens to the others
    assert found["quietstar/hardest_tokens"] == 2
    assert found["quietstar/hardest_nats_before"] == 6.5
    assert found["quietstar/hardest_nats_own"] == 1.5
    assert found["quietstar/answer_nats_own"] == pytest.approx(93 / 12)
    assert found["quietstar/hardest_tokens_gain_over_off"] == pytest.approx(0.5)
    assert found["quietstar/hardest_tokens_gain_over_filler"] == pytest.approx(0.25)
    assert found["quietstar/sure_hardest_tokens_gain_over_off"] == pytest.approx(0.0)  # the third token gained nothing
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("helps", "passed"), [(0.5, True), (0.97, False), (2.0, False)])
def test_the_gates_of_a_preset_follow(helps, passed):
    """Half of the nats passes; 3% less is more than luck but too little; twice as much fails all."""
    control = np.linspace(1, 3, 40)
    found = hardest_figures(asked(helps * control, control, control), control)
    gates = [gate for gate in build_config("demo").gates["quietstar"] if "hardest" in gate.metric]
    results = [(each.metric, each.passed) for each in evaluate("quietstar", gates, found)]
    assert len(results) == 4
    assert all(ok is passed for metric, ok in results if "sure" not in metric)
    assert all(ok is (helps < 1) for metric, ok in results if "sure" in metric)
