"""Every gate can pass and can fail."""

import math

import pytest

from agent_forge.config import Gate
from agent_forge.pipeline.gates import evaluate


def gate(comparison: str = "<", bound: float = 1.0, severity: str = "block") -> Gate:
    return Gate(metric="x/y", comparison=comparison, bound=bound, severity=severity, why="a test")


@pytest.mark.parametrize(
    ("comparison", "good", "bad"),
    [("<", 0.9, 1.0), ("<=", 1.0, 1.1), (">", 1.1, 1.0), (">=", 1.0, 0.9), ("==", 1.0, 2.0)],
)
def test_each_comparison_passes_and_fails(comparison, good, bad):
    rule = gate(comparison)
    assert evaluate("p", [rule], {"x/y": good})[0].passed
    assert not evaluate("p", [rule], {"x/y": bad})[0].passed


@pytest.mark.parametrize("measured", [{}, {"x/y": math.nan}, {"x/z": 0.0}])
def test_what_was_not_measured_has_failed(measured):
    result = evaluate("p", [gate()], measured)[0]
    assert not result.passed
    assert result.measured is None
    assert "was not measured" in str(result.error())


def test_a_warning_never_blocks():
    failed = evaluate("p", [gate(severity="warn")], {"x/y": 5.0})[0]
    assert not failed.passed
    assert not failed.blocks


def test_the_sentence_names_gate_measure_and_bound():
    error = evaluate("cognate", [gate()], {"x/y": 5.0})[0].error()
    assert str(error) == "gate cognate: x/y failed: it is 5, and must be < 1"
    assert error.exit_code == 3
