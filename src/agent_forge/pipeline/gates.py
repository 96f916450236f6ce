"""Gates: measured conditions, declared as data in the preset, that can stop a run."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent_forge.config import Gate
from agent_forge.errors import GateFailed

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True)
class GateResult:
    """One gate after measuring.

    Attributes:
        measured: None when the phase did not report the metric; such a gate has failed.
    """

    phase: str
    metric: str
    comparison: str
    bound: float
    severity: str
    measured: float | None
    passed: bool
    why: str

    @property
    def blocks(self) -> bool:
        """True if the run may not go on."""
        return not self.passed and self.severity == "block"

    def error(self) -> GateFailed:
        """The exception that says it."""
        return GateFailed(f"{self.phase}: {self.metric}", self.measured, f"{self.comparison} {self.bound:g}")

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def evaluate(phase: str, gates: Sequence[Gate], measured: Mapping[str, float]) -> list[GateResult]:
    """Compares what ``phase`` reported with its gates.

    A metric that was not measured, or is not a number, fails.
    """
    results = []
    for gate in gates:
        value = measured.get(gate.metric)
        passed = value is not None and not math.isnan(value) and _COMPARE[gate.comparison](value, gate.bound)
        shown = None if value is None or math.isnan(value) else float(value)
        results.append(
            GateResult(phase, gate.metric, gate.comparison, gate.bound, gate.severity, shown, passed, gate.why)
        )
    return results
