"""The risk register: likelihood × impact × 10, as data, so that totals and labels cannot drift from it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Priority: TypeAlias = Literal["P0", "P1", "P2", "P3"]
_BOUNDS: tuple[tuple[int, Priority], ...] = ((600, "P0"), (400, "P1"), (200, "P2"), (0, "P3"))


@dataclass(frozen=True)
class Risk:
    """One risk, before and after what was done about it (both on scales from 0 to 10).

    Attributes:
        id: of the specification.
        title: in a few words.
        likelihood: before.
        impact: before.
        likelihood_now: after ``mitigation``.
        impact_now: after it.
        mitigation: what was done.
        failure: the entry of the catalogue that watches it.
    """

    id: str
    title: str
    likelihood: int
    impact: int
    likelihood_now: int
    impact_now: int
    mitigation: str
    failure: str

    def __post_init__(self) -> None:
        for value in (self.likelihood, self.impact, self.likelihood_now, self.impact_now):
            if not 0 <= value <= 10:
                raise ValueError(f"{self.id}: likelihood and impact run from 0 to 10, not {value}")

    @property
    def score(self) -> int:
        """Before: likelihood × impact × 10, at most 1,000."""
        return self.likelihood * self.impact * 10

    @property
    def score_now(self) -> int:
        """After."""
        return self.likelihood_now * self.impact_now * 10

    @property
    def priority_now(self) -> Priority:
        """P0 from 600, P1 from 400, P2 from 200, else P3."""
        return priority(self.score_now)


def priority(score: int) -> Priority:
    """The priority of a score from 0 to 1,000."""
    if not 0 <= score <= 1000:
        raise ValueError(f"a score runs from 0 to 1000, not {score}")
    return next(name for bound, name in _BOUNDS if score >= bound)


def totals(risks: Iterable[Risk]) -> dict[str, int]:
    """Sums of the scores and counts by priority."""
    listed = list(risks)
    counts: dict[str, int] = {name: sum(risk.priority_now == name for risk in listed) for _, name in _BOUNDS}
    return {"before": sum(risk.score for risk in listed), "now": sum(risk.score_now for risk in listed), **counts}


REGISTER = (
    Risk("RISK-001", "memory explodes in evolution", 10, 9, 2, 9, "one model resident at a time, workers bounded by "
         "free memory, peak independent of generations", "CF1"),
    Risk("RISK-002", "quantization corrupts special tokens", 8, 9, 1, 9, "roles by module; where embedding or "
         "head is rounded, rows of special tokens stay exact", "RISK-002"),
    Risk("RISK-003", "the dashboard costs training memory", 9, 7, 3, 7, "a process of its own", "RISK-003"),
    Risk("RISK-004", "gradients vanish in ternary training", 7, 8, 2, 8, "straight-through estimator with scale",
         "RISK-004"),
    Risk("RISK-005", "SQLite locks", 6, 5, 1, 5, "WAL, BEGIN IMMEDIATE, one write lock", "RISK-005"),
    Risk("RISK-006", "checkpoints pile up", 4, 4, 1, 4, "keep-last-N per phase and overall", "RISK-006"),
    Risk("RISK-007", "polling delays the dashboard", 9, 3, 9, 3, "pushed events, when the dashboard is built",
         "RISK-003"),
    Risk("RISK-008", "sessions pile up on disk", 5, 3, 1, 3, "retention by age and number", "RISK-008"),
    Risk("RISK-009", "synchronising curves fills the network", 3, 2, 1, 2, "curves are local; nothing is sent",
         "F1"),
    Risk("RISK-010", "promised code rules are not checked", 4, 4, 1, 4, "house tests, pre-commit", "HOUSE"),
)  # fmt: skip
