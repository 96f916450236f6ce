"""The chain is checked before anything runs."""

import pytest

from agent_forge.errors import PlanError
from agent_forge.pipeline.plan import Plan, connect


def phase(name, consumes, produces):
    """A phase that only declares."""
    return type(name, (), {"name": name, "version": 1, "consumes": consumes, "produces": produces})()


def test_each_input_comes_from_the_newest_giver():
    first = phase("first", {}, {"model": "checkpoint"})
    second = phase("second", {"model": "checkpoint"}, {"model": "checkpoint"})
    third = phase("third", {"model": "checkpoint"}, {})
    steps = connect([first, second, third])
    assert steps[1].sources == {"model": "first"}
    assert steps[2].sources == {"model": "second"}


def test_an_optional_input_may_be_absent():
    steps = connect([phase("only", {"trunk": "checkpoint?"}, {})])
    assert steps[0].sources == {}


def test_a_missing_handoff_is_one_sentence():
    with pytest.raises(PlanError, match="phase b needs 'specialists' .* add cognate to --phases"):
        connect([phase("b", {"specialists": "checkpoints"}, {})])


def test_a_wrong_kind_is_refused():
    giver = phase("a", {}, {"model": "agent_file"})
    with pytest.raises(PlanError, match="needs 'model' as checkpoint, and a gives agent_file"):
        connect([giver, phase("b", {"model": "checkpoint"}, {})])


def test_only_a_phase_that_others_do_not_need_can_be_skipped():
    first = phase("first", {}, {"model": "checkpoint"})
    middle = phase("middle", {"model": "checkpoint"}, {"model": "checkpoint"})
    last = phase("last", {"model": "checkpoint"}, {})
    plan = Plan(connect([first, middle, last]))
    assert plan.can_skip("middle")
    assert not plan.can_skip("first")
