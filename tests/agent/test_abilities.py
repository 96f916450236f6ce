"""What was lost, by hand; and that an agent is asked only for what it has."""

import pytest

from agent_forge.agent.abilities import NO_CALL, PERSONA, TOOLS, Abilities, points_lost
from agent_forge.pipeline.gates import evaluate


def rows(right, count):
    return [n < right for n in range(count)]


def test_points_lost_by_hand():
    before = {TOOLS: rows(90, 100), NO_CALL: rows(50, 50)}
    found = points_lost(before, {TOOLS: rows(87, 100), NO_CALL: rows(50, 50)}, "edge")
    assert found["edge/points_lost"] == found["edge/points_lost/tools"] == pytest.approx(3.0)
    assert found["edge/points_lost/no_call"] == 0
    assert 0 < found["edge/sure_points_lost"] < 3


def test_a_gain_is_no_loss_and_an_agent_without_abilities_loses_none():
    found = points_lost({PERSONA: rows(8, 10)}, {PERSONA: rows(9, 10)}, "edge")
    assert found["edge/points_lost"] == pytest.approx(-10.0)
    assert found["edge/sure_points_lost"] == 0
    assert points_lost({}, {}, "edge") == {"edge/points_lost": 0.0, "edge/sure_points_lost": 0.0}


@pytest.mark.parametrize("phase", ["edge", "compression"])
@pytest.mark.parametrize(("right", "passes"), [(232, True), (205, False)])
def test_the_gate_on_what_was_lost_passes_and_fails(phase, right, passes):
    from agent_forge.config import build_config

    wanted = "points_lost" if phase == "edge" else "sure_points_lost"
    gates = [gate for gate in build_config("demo").gates[phase] if gate.metric == f"{phase}/{wanted}"]
    assert [gate.severity for gate in gates] == ["block"]
    measured = points_lost({TOOLS: rows(235, 235)}, {TOOLS: rows(right, 235)}, phase)
    assert evaluate(phase, gates, measured)[0].passed is passes


def test_an_agent_without_tools_and_persona_is_asked_nothing():
    asked = Abilities(None, None, None, "", 0, levels=(1,), answer_tokens=4)
    assert asked.answers(None, "test", questions=8, persona_questions=8) == {}
    assert Abilities(None, None, None, "Be nice.", 0, levels=(1,), answer_tokens=4).persona == ""
