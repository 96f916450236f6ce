"""What an agent's design asks of a graph beyond the next token."""

from __future__ import annotations

from pathlib import Path

from agent_forge.agent.design import AgentDesign
from agent_forge.errors import HandoffError


def exported_design(folder: Path) -> AgentDesign:
    """The design of a checkpoint folder, if a graph can carry it out; the plain one where there is none.

    Raises:
        HandoffError: a row sets the window or the depth of the recursion, which are built into a graph.
    """
    design = (AgentDesign.load(folder) or AgentDesign()).canonical()
    for row in (design, *(row for _, row in design.routes)):
        for name in ("window", "recursion_steps"):
            if getattr(row, name) is not None:
                raise HandoffError(
                    f"the design of {folder} sets {name}, and a graph has one that is fixed when it is written: "
                    f"change the model's own, or take {name} out of agent.json"
                )
    return design
