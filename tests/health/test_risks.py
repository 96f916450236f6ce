from __future__ import annotations

from dataclasses import replace

import pytest

from agent_forge.health.catalogue import CATALOGUE
from agent_forge.health.risks import REGISTER, priority, totals


def test_scores_and_priorities_are_computed() -> None:
    risk = replace(REGISTER[0], likelihood=7, impact=8, likelihood_now=5, impact_now=8)
    assert (risk.score, risk.score_now, risk.priority_now) == (560, 400, "P1")
    bounds = {0: "P3", 199: "P3", 200: "P2", 399: "P2", 400: "P1", 599: "P1", 600: "P0", 1000: "P0"}
    assert {score: priority(score) for score in bounds} == bounds
    for wrong in (-1, 1001):
        with pytest.raises(ValueError, match="0 to 1000"):
            priority(wrong)
    with pytest.raises(ValueError, match="0 to 10"):
        replace(risk, impact=11)


def test_the_counts_add_up_and_every_risk_is_watched() -> None:
    sums = totals(REGISTER)
    assert sum(sums[name] for name in ("P0", "P1", "P2", "P3")) == len(REGISTER) == 10
    assert sums["before"] == sum(risk.likelihood * risk.impact * 10 for risk in REGISTER)
    assert {risk.failure for risk in REGISTER} <= {entry.id for entry in CATALOGUE}
    assert len({risk.id for risk in REGISTER}) == len(REGISTER)
