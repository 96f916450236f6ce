"""The eight phases in their order, and the door to each.

`load` imports a phase only when it is asked for, because phases import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from agent_forge.contract import Phase
from agent_forge.errors import PlanError

ORDER = ("cognate", "evomerge", "quietstar", "bitnet", "forge", "baking", "edge", "compression")
BUILT = ("cognate", "evomerge", "bitnet", "compression")


def load(name: str) -> Phase[Any]:
    """The phase of that name.

    Raises:
        PlanError: the name is unknown, or the phase is not built yet.
    """
    if name not in ORDER:
        raise PlanError(f"unknown phase {name!r}; the phases are {', '.join(ORDER)}")
    if name not in BUILT:
        raise PlanError(f"phase {name!r} is not built yet; leave it out of --phases")
    phase: Phase[Any] = import_module(f"agent_forge.phases.{name}.phase").PHASE
    return phase
