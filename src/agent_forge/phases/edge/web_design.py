"""How an agent goes about questions, as its page carries it out: the rows of its design, and what a page leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.equipment import asked_for
from agent_forge.agent.toolbox import Toolbox
from agent_forge.model.expert_vectors import mixture_of
from agent_forge.phases.edge.onnx_agent import as_input, experts_of
from agent_forge.phases.edge.onnx_session import MANIFEST

NOT_IN_A_PAGE = ("python", "retrieve")
"""Kinds of tools that need a process or a folder."""
_NOT_A_ROW = ("format", "recursion_steps", "window", "pruning", "routes")


def rows_of(design: AgentDesign) -> list[AgentDesign]:
    """The outer row, and that of each route."""
    design = design.canonical()
    return [design.route(""), *(row for _, row in design.routes)]


def page_design(design: AgentDesign, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the page reads: the design, and the classifier of questions where it has routes.

    Args:
        design: the agent's.
        manifest: ``onnx.json`` of its graph.

    Returns:
        ``design``: a row with the names of ``agent.json``, whose ``experts`` are what goes into the graph (None = the
        model as it is), and ``routes`` by kind of question; ``classifier``: classes, weight and bias, or None.
    """
    design = design.canonical()
    routes = {kind: _row(row, manifest) for kind, row in design.routes}
    return {"design": {**_row(design, manifest), "routes": routes}, "classifier": manifest.get("routes")}


def _row(design: AgentDesign, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """One row; what the graph has no way to change is not in it."""
    row = {name: part for name, part in design.to_json().items() if name not in _NOT_A_ROW}
    return row | {"experts": _mixture(dict(design.experts), manifest)}


def _mixture(weights: Mapping[str, float], manifest: Mapping[str, Any]) -> list[float] | None:
    """What goes into the graph for a mixture of experts."""
    mixture = mixture_of(experts_of(manifest, MANIFEST), weights)
    given: list[float] | None = None if mixture is None else as_input(mixture, manifest)[0].tolist()
    return given


def think_of(design: AgentDesign) -> str | None:
    """Whether it thinks (``think`` of its row), or None where that depends on the question."""
    found = {row.think for row in rows_of(design)}
    return found.pop() if len(found) == 1 else None


def told(design: AgentDesign) -> str:
    """One line about it; empty for one greedy attempt, which needs no words."""
    rows = rows_of(design)
    most, kinds = max(row.samples + (row.tools == "after") for row in rows), len(rows) - 1
    experts = asked_for(design)
    parts = [f"up to {most} attempts and a vote"] if most > 1 else []
    parts += ["calculated thoughts"] if any(row.calculated != "no" for row in rows) else []
    parts += [f"{kinds} kinds of question with a way of their own"] if kinds else []
    parts += [f"experts {', '.join(experts)}"] if experts else []
    return "; ".join(parts)


def left_out(design: AgentDesign) -> list[str]:
    """Parts of the design that a page does not carry out: its graph has all of the model's units."""
    return ["pruning"] if any(row.pruning for row in rows_of(design)) else []


def tools_not_in_page(toolbox: Toolbox | None) -> list[str]:
    """Names of the tools that answer in a page with the reason why they cannot be used."""
    return [] if toolbox is None else [tool.name for tool in toolbox.tools.values() if tool.kind in NOT_IN_A_PAGE]
