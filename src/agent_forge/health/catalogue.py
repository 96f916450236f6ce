"""The failure catalogue: the premortem as data. ``docs/premortem.md`` is generated from it.

Phases take their signals from here, ``doctor`` reads runs with it, and a house test holds every
entry to a test that injects the failure for real.
"""

from __future__ import annotations

from agent_forge.health.detectors import Signal
from agent_forge.health.entries_edge import EDGE
from agent_forge.health.entries_phases import COGNATE, LATER_PHASES
from agent_forge.health.entries_pipeline import PIPELINE
from agent_forge.health.failure import EVERYWHERE, Failure

CATALOGUE: tuple[Failure, ...] = (*COGNATE, *LATER_PHASES, *EDGE, *PIPELINE)


def failure(identity: str) -> Failure:
    """The entry of that id.

    Raises:
        KeyError: there is none.
    """
    for each in CATALOGUE:
        if each.id == identity:
            return each
    raise KeyError(f"no failure {identity!r} in the catalogue; known are {', '.join(each.id for each in CATALOGUE)}")


def of_phase(phase: str) -> tuple[Failure, ...]:
    """The entries that can happen in a phase, with those that can happen anywhere."""
    return tuple(each for each in CATALOGUE if phase in each.phases or each.phases == EVERYWHERE)


def signals_of(phase: str) -> dict[str, tuple[Signal, ...]]:
    """What `agent_forge.health.detectors.Watch` looks for in a phase, by failure id."""
    return {each.id: each.signals for each in of_phase(phase) if each.signals}
