import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.evaluation.statistics import surely_lost
from agent_forge.phases.forge.measurement import converged, forgetting, lost
from agent_forge.phases.forge.stability import MAX_RESTORES, Alarm, Stability


def _feed(stability, losses, norms=None):
    found = [stability.look(loss, norm) for loss, norm in zip(losses, norms or [1.0] * len(losses), strict=True)]
    return next((alarm for alarm in found if alarm), None)


def test_steady_learning_is_no_alarm():
    assert _feed(Stability(), [4 - 0.01 * n for n in range(200)]) is None
    noisy = np.random.default_rng(0).normal(2.0, 0.4, 300)
    assert _feed(Stability(), noisy.tolist()) is None


@pytest.mark.parametrize(
    ("losses", "norms", "cause"),
    [
        ([math.nan], [1.0], "not finite"),
        ([2.0], [math.inf], "not finite"),
        ([2.0, 4.0] * 20, None, "loss variance"),
        ([1.0 + 0.1 * n for n in range(30)], None, "loss rise"),
        ([2.0] * 30, [1.0] * 29 + [80.0], "gradient spike"),
    ],
)
def test_every_cause_is_seen(losses, norms, cause):
    alarm = _feed(Stability(), losses, norms)
    assert alarm is not None
    assert alarm.cause == cause
    assert cause in alarm.sentence()


def test_a_window_that_is_not_full_proves_nothing():
    assert _feed(Stability(window=20), [1.0, 9.0] * 9) is None


def test_three_returns_and_then_no_more():
    stability = Stability()
    alarm = Alarm("not finite", math.nan, 0.0)
    assert [stability.record(alarm) for _ in range(MAX_RESTORES + 1)] == [True, True, True, False]
    stability.begin_stage()
    assert stability.record(alarm)
    assert len(stability.history) == MAX_RESTORES + 2


def test_a_collapse_of_accuracy():
    stability = Stability()
    assert stability.look_at_accuracy({1: 0.9, 2: 0.8}, {1: 0.8, 2: 0.7}) is None
    alarm = stability.look_at_accuracy({1: 0.9, 2: 0.8}, {1: 0.1, 2: 0.2})
    assert alarm is not None
    assert alarm.cause == "accuracy collapse"
    assert stability.look_at_accuracy({}, {}) is None


@settings(deadline=None)
@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_state_is_taken_over_whole(losses):
    stability = Stability()
    for loss in losses:
        stability.look(loss, 1.0)
    again = Stability()
    again.load_state(stability.state())
    assert again.state() == stability.state()
    assert again.look(1.0, 1.0) == stability.look(1.0, 1.0)
    assert again.calm == stability.calm


def test_a_window_on_its_way_to_an_alarm_is_not_calm():
    stability = Stability()
    assert stability.calm
    _feed(stability, [1.0 + 0.05 * n for n in range(20)])
    assert not stability.calm


def rows(*rights, of=20):
    """Answers of levels 1, 2, …: so many right, the first ones."""
    return {level: [n < right for n in range(of)] for level, right in enumerate(rights, 1)}


def test_forgetting_by_hand():
    assert forgetting(rows(18), rows(10, 4), rows(17, 2), lost) == pytest.approx(5.0)
    assert forgetting({}, rows(10, 4), rows(18, 2), lost) == pytest.approx(5.0)
    assert forgetting(rows(16), rows(16), rows(18), lost) == 0
    assert forgetting({}, {}, {}, lost) == 0


def test_luck_looks_like_forgetting_and_is_not_sure():
    """No level is better or worse, and a fifth of the answers change: some points are seen, none is sure."""
    draw = np.random.default_rng(0)
    seen, sure = [], []
    for _ in range(200):
        before = {level: list(draw.random(32) < 0.3) for level in range(1, 6)}
        after = {
            n: [bool(draw.random() < 0.3) if draw.random() < 0.4 else was for was in each] for n, each in before.items()
        }
        seen.append(forgetting({}, before, after, lost))
        sure.append(forgetting({}, before, after, surely_lost))
    assert np.mean(np.asarray(seen) > 2) > 0.6
    assert np.mean(np.asarray(sure) > 2) < 0.03


def test_what_is_really_forgotten_is_sure():
    assert forgetting({}, rows(20, 20), rows(20, 8), surely_lost) > 10
    assert forgetting(rows(19), rows(2), rows(3), surely_lost) > 20


def test_convergence_needs_two_stages_at_the_same_edge():
    row = {"edge": 1, "answer_loss": 1.0}
    assert converged([]) == 0
    assert converged([row]) == 0
    assert converged([row, {"edge": 1, "answer_loss": 0.98}]) == 1
    assert converged([row, {"edge": 1, "answer_loss": 0.8}]) == 0
    assert converged([row, {"edge": 2, "answer_loss": 1.0}]) == 0
