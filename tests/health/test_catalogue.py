from __future__ import annotations

import pytest

from agent_forge.health.catalogue import CATALOGUE, failure, of_phase, signals_of
from agent_forge.phases import ORDER


def test_ids_are_used_once_and_found() -> None:
    assert len({entry.id for entry in CATALOGUE}) == len(CATALOGUE)
    assert failure("C1").title == "adaptive halting always or never halts"
    with pytest.raises(KeyError, match="known are"):
        failure("Z9")


def test_the_whole_specification_is_there() -> None:
    expected = (
        "A1 A2 B1 B2 C1 C2 D1 D2 D3 E1 E2 F1 F2 G1 G2 CF1 CF2 CF3 CF4 CF5 PR2 PR3 PR4 PR5 PR6 PR7 PR8 "
        "RISK-002 RISK-003 RISK-004 RISK-005 RISK-006 RISK-008 ENV1 ENV2 ENV3"
    )
    assert set(expected.split()) <= {entry.id for entry in CATALOGUE}


def test_phases_are_phases_and_every_one_is_watched() -> None:
    known = {*ORDER, "pipeline"}
    assert all(set(entry.phases) <= known for entry in CATALOGUE)
    for phase in ORDER:
        entries = of_phase(phase)
        assert any(entry.phases != ("pipeline",) for entry in entries)
        assert failure("ENV2") in entries
    assert {"C1", "C2", "D1"} <= set(signals_of("cognate"))
    assert "RISK-004" in signals_of("bitnet")
    assert "RISK-004" not in signals_of("cognate")
