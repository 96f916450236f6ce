"""The plan: which phases run, in which order, and from where each takes its inputs.

It is checked whole before the first step, so that a chain that cannot work fails in a second and
not after an hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent_forge.config import ForgeConfig
from agent_forge.contract import Declaration, Phase
from agent_forge.errors import PlanError
from agent_forge.phases import ORDER, declared, load
from agent_forge.pipeline.ingest import INGEST


@dataclass(frozen=True)
class Step:
    """One phase of the plan.

    Attributes:
        sources: input name → name of the step that gives it; optional inputs that nobody gives are absent.
    """

    phase: Declaration
    sources: Mapping[str, str]

    @property
    def name(self) -> str:
        """Name of the phase."""
        return self.phase.name

    @property
    def position(self) -> int:
        """Its number in the design, from 1; the data step is 0."""
        return ORDER.index(self.name) + 1 if self.name in ORDER else 0


@dataclass(frozen=True)
class Plan:
    """The steps in the order in which they run."""

    steps: tuple[Step, ...]

    def can_skip(self, name: str) -> bool:
        """True if the chain still fits without that phase.

        A phase can be left out when each handoff that later steps take from it is also given by an
        earlier step.
        """
        kept = [step.phase for step in self.steps if step.name != name]
        try:
            connect(kept)
        except PlanError:
            return False
        return True


def connect(phases: Sequence[Declaration]) -> tuple[Step, ...]:
    """Finds for each input the newest earlier step that gives it.

    Raises:
        PlanError: an input that is needed is given by nobody before, or has another kind.
    """
    given: dict[str, tuple[str, str]] = {}
    steps = []
    for phase in phases:
        sources = {}
        for name, kind in phase.consumes.items():
            optional, wanted = kind.endswith("?"), kind.removesuffix("?")
            if name not in given:
                if optional:
                    continue
                raise PlanError(
                    f"phase {phase.name} needs {name!r} ({wanted}), and no earlier phase of this run gives it"
                    f"{_suggestion(name, phases)}"
                )
            giver, kind_given = given[name]
            if kind_given != wanted:
                raise PlanError(f"phase {phase.name} needs {name!r} as {wanted}, and {giver} gives {kind_given}")
            sources[name] = giver
        given.update({name: (phase.name, kind) for name, kind in phase.produces.items()})
        steps.append(Step(phase, sources))
    return tuple(steps)


def _suggestion(name: str, phases: Sequence[Declaration]) -> str:
    absent = [other for other in ORDER if other not in {phase.name for phase in phases}]
    givers = [other for other in absent if name in declared(other).produces]
    return f"; add {givers[0]} to --phases" if givers else ""


def build_plan(config: ForgeConfig) -> Plan:
    """The plan of a configuration: the data step, then the chosen phases in the order of the design.

    Raises:
        PlanError: an unknown phase, a phase named twice, or a missing handoff.
    """
    if len(set(config.phases)) != len(config.phases):
        raise PlanError(f"a phase is named twice in {', '.join(config.phases)}")
    if not config.phases:
        raise PlanError("no phase is chosen; name at least one with --phases")
    chosen = [declared(name) for name in sorted(config.phases, key=ORDER.index)]
    return Plan(connect([INGEST.declaration, *chosen]))


def load_step(name: str) -> Phase[Any]:
    """The phase of that name, or the data step."""
    return INGEST if name == INGEST.name else load(name)
