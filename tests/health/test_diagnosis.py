from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from agent_forge.health.catalogue import failure
from agent_forge.health.detectors import Signal
from agent_forge.health.diagnosis import diagnose, lines


@dataclass(frozen=True)
class Run:
    phase: str
    status: str = "completed"
    attempt: int = 1
    warnings: Sequence[Mapping[str, Any]] = ()
    traceback: str | None = None


@dataclass(frozen=True)
class Line:
    last: Any
    steps: Any = field(default_factory=lambda: np.arange(1000))


def test_a_healthy_run_has_no_findings() -> None:
    curves = {"cognate": {"loss/total": Line(np.linspace(5, 2, 1000)), "act/halt_prob_step0": Line(np.full(1000, 0.4))}}
    assert diagnose([Run("cognate")], curves) == []
    assert lines([]) == ["Nothing looks wrong."]


def test_a_curve_beyond_its_bound_is_found_with_its_numbers_and_advice() -> None:
    values = np.where(np.arange(1000) < 500, 0.4, 0.97)
    (finding,) = diagnose([Run("cognate")], {"cognate": {"act/halt_prob_step0": Line(values)}})
    assert (finding.failure, finding.phase, finding.severity) == ("C1", "cognate", "act")
    assert "act/halt_prob_step0 = 0.9" in finding.evidence[0]
    text = "\n".join(lines([finding]))
    for part in ("C1", "seen:", "done:", "raise the threshold"):
        assert part in text


def test_the_worst_comes_first_and_warnings_join_their_entry() -> None:
    warning = {"failure": "C2", "message": "the norm grew", "evidence": {"norm": 123.456}}
    runs = [Run("cognate", warnings=[warning]), Run("bitnet", "failed", traceback="Traceback\nValueError: boom\n")]
    nan = np.where(np.arange(1000) == 7, math.nan, np.linspace(5, 2, 1000))
    findings = diagnose(runs, {"cognate": {"loss/total": Line(nan)}}, {"cognate": {"loss/total": 1}})
    assert [(finding.severity, finding.failure) for finding in findings] == [
        ("failed", None), ("act", "C2"), ("warn", None),
    ]  # fmt: skip
    assert "ValueError: boom" in findings[0].evidence
    assert findings[1].evidence[0] == "the norm grew (norm = 123.5)"
    assert "step 7" in findings[1].evidence[1]
    assert findings[2].evidence == ("loss/total was not a number 1 times",)


def test_only_the_newest_attempt_counts_and_endings_are_explained() -> None:
    runs = [Run("cognate", "failed"), Run("cognate", "completed", 2), Run("evomerge", "out_of_memory")]
    (finding,) = diagnose(runs, {})
    assert (finding.failure, finding.severity) == ("ENV1", "failed")
    assert "micro-batch" in finding.advice
    for status, word in (("interrupted", "resume"), ("degraded", "fallback"), ("gate_failed", "bound")):
        (finding,) = diagnose([Run("bitnet", status)], {})
        assert word in finding.advice
    (finding,) = diagnose([Run("bitnet", "timeout")], {})
    assert finding.failure == "CF4"


def test_diverging_curves_are_compared_at_common_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    signal = Signal("valid/loss", "diverging", window=2000, against="valid/accuracy")
    entry = replace(failure("A1"), signals=(signal,))
    monkeypatch.setattr("agent_forge.health.diagnosis.of_phase", lambda phase: (entry,))
    curves = {
        "valid/loss": Line(np.linspace(9, 5, 8), np.arange(0, 4000, 500)),
        "valid/accuracy": Line(np.linspace(0.5, 0.2, 9), np.arange(0, 4500, 500)),
    }
    (finding,) = diagnose([Run("cognate")], {"cognate": curves})
    assert finding.failure == "A1"
    assert diagnose([Run("cognate")], {"cognate": {"valid/loss": curves["valid/loss"]}}) == []


def test_a_warning_that_the_catalogue_does_not_know_is_still_shown() -> None:
    (finding,) = diagnose([Run("cognate", warnings=[{"failure": "X7", "message": "odd"}])], {})
    assert (finding.failure, finding.evidence) == (None, ("odd",))
