import pytest

from agent_forge.phases.cognate.specialization import specialization_score

SPECIALTIES = {"a": {"x": 1.0}, "b": {"y": 0.5, "z": 0.5}}


def test_by_hand():
    bits = {"a": {"x": 1.0, "y": 2.0, "z": 2.0}, "b": {"x": 2.0, "y": 1.5, "z": 2.0}}
    score, gains = specialization_score(bits, SPECIALTIES)
    assert score == pytest.approx(2 / 3)  # a tie is not a win
    assert gains == {"a": pytest.approx(0.5), "b": pytest.approx(0.125)}


def test_refuses_a_specialist_without_figures():
    with pytest.raises(ValueError, match="specialist b"):
        specialization_score({"a": {"x": 1.0}, "b": {}}, SPECIALTIES)
