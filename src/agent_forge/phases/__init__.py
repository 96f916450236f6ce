"""The eight phases in their order, and the door to each.

`declared` tells what a phase takes and gives; `load` imports it, and with it torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent_forge.contract import Declaration, Phase
from agent_forge.errors import PlanError

ORDER = ("cognate", "evomerge", "quietstar", "bitnet", "forge", "baking", "edge", "compression")


def declared(name: str) -> Declaration:
    """What the phase of that name says of itself, without importing torch.

    Raises:
        PlanError: the name is unknown.
    """
    _check(name)
    declaration: Declaration = import_module(f"agent_forge.phases.{name}").DECLARATION
    return declaration


def load(name: str) -> Phase[Any]:
    """The phase of that name, ready to run.

    Raises:
        PlanError: the name is unknown.
    """
    _check(name)
    phase: Phase[Any] = import_module(f"agent_forge.phases.{name}.phase").PHASE
    return phase


def _check(name: str) -> None:
    if name not in ORDER:
        raise PlanError(f"unknown phase {name!r}; the phases are {', '.join(ORDER)}")
