"""A design: how an agent goes about a question, in a small closed language.

Paper: Hu, Lu and Clune 2024, "Automated Design of Agentic Systems" (arXiv:2408.08435): designs of agents can be
searched for. Parts of the language: thoughts (Wei et al. 2022, arXiv:2201.11903), tools between thoughts (Yao et al.
2022, arXiv:2210.03629), several answers and a vote (Wang et al. 2022, arXiv:2203.11171), stopping once they agree
(Aggarwal et al. 2023, arXiv:2305.11860), checks (`agent_forge.agent.answer_checks`), a calculator in thoughts (Cobbe et
al. 2021, arXiv:2110.14168).

What we do differently:
1. No model writes programs that are then executed: a design is a row of values, each from a small set, and
   `agent_forge.agent.interpreter` carries it out. A file with anything else in it is refused.
2. Kinds of question may have rows of their own (routes): a first pass recognises the kind (`agent_forge.agent.routes`).
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from agent_forge.agent.answer_checks import CHECKS
from agent_forge.agent.belongings import DESIGN
from agent_forge.errors import ArtifactCorrupt

FORMAT = 1
MAX_SAMPLES = 32
_CHOICES: dict[str, tuple[Any, ...]] = {
    "think": ("auto", "on", "off"),
    "tools": ("first", "after", "never"),
    "calculated": ("no", "yes", "in turn"),
}
_RANGES: dict[str, tuple[float, float]] = {
    "samples": (1, MAX_SAMPLES), "temperature": (0, 2), "enough": (0, MAX_SAMPLES), "thought_budget": (0, 4096),
    "max_calls": (0, 64), "recursion_steps": (1, 64), "window": (1, 1 << 20),
}  # fmt: skip


@dataclass(frozen=True)
class AgentDesign:
    """A design. The defaults are what a model does without one.

    Attributes:
        think: ``on`` opens a thought, ``off`` allows none, ``auto`` leaves it to the model.
        tools: ``first`` = at hand from the start; ``after`` = only if an answer without them is blank, wants a call
            or fails a check of the design; ``never``.
        samples: attempts at most.
        temperature: of the attempts.
        greedy_first: whether the first attempt takes the likeliest tokens instead.
        calculated: whether equations in thoughts get their results from the calculator: ``no``, ``yes``, or in every
            second attempt.
        checks: check → ``doubt`` or ``reject``; a mapping is taken, too, and kept as sorted pairs.
        enough: attempts end once the votes for one answer reach this; 0 = all attempts are made.
        thought_budget: tokens of a thought at most.
        max_calls: of tools, for one attempt.
        recursion_steps: of a model with recursion; None = as configured.
        window: of the attention of a model that has one, in tokens; None = as configured.
        experts: expert → weight of a mixture; empty = the model as it is.
        pruning: name of a pruned form of the model; empty = none.
        routes: kind of question → how to go about it instead, a design without routes; a mapping is taken, too.
            All other questions, and those of no kind that is recognised, get the row above.
    """

    think: Literal["auto", "on", "off"] = "auto"
    tools: Literal["first", "after", "never"] = "first"
    samples: int = 1
    temperature: float = 0.0
    greedy_first: bool = True
    calculated: Literal["no", "yes", "in turn"] = "no"
    checks: tuple[tuple[str, str], ...] = ()
    enough: float = 0.0
    thought_budget: int = 128
    max_calls: int = 8
    recursion_steps: int | None = None
    window: int | None = None
    experts: tuple[tuple[str, float], ...] = ()
    pruning: str = ""
    routes: tuple[tuple[str, AgentDesign], ...] = ()

    def __post_init__(self) -> None:
        for name in ("checks", "experts", "routes"):  # pairs: a design is a key of caches
            given = dict(getattr(self, name))
            object.__setattr__(self, name, tuple((key, given[key]) for key in sorted(given)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(choices)}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("recursion_steps", "window"):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise ValueError(f"{name} {value!r} must be a number from {low:g} to {high:g}")
            if name not in ("temperature", "enough") and not isinstance(value, int):
                raise ValueError(f"{name} {value!r} must be a whole number")
        for check, consequence in self.checks:
            if check not in CHECKS or consequence not in ("doubt", "reject"):
                raise ValueError(f"check {check}: {consequence!r} is unknown; there are {', '.join(CHECKS)}")
        if not isinstance(self.greedy_first, bool) or not isinstance(self.pruning, str):
            raise ValueError(f"greedy_first {self.greedy_first!r} must be true or false, pruning a name")
        if not all(isinstance(name, str) and isinstance(weight, (int, float)) for name, weight in self.experts):
            raise ValueError(f"experts {self.experts!r} must be names with numbers")
        for kind, design in self.routes:
            if not kind or not isinstance(design, AgentDesign):
                raise ValueError(f"route {kind!r} must be a kind of question with a design")
            if design.routes:
                raise ValueError(f"route {kind!r} has routes of its own; a kind is recognised once")

    def route(self, kind: str) -> AgentDesign:
        """How it goes about questions of a kind; without a route for it, as the outer row says."""
        return dict(self.routes).get(kind) or replace(self, routes=())

    def without_experts(self, names: Collection[str]) -> AgentDesign:
        """The same, but that each row that asks for one of these experts has the model as it is.

        A mixture goes as a whole: what is left of it was never measured.
        """
        routes = tuple((kind, row.without_experts(names)) for kind, row in self.routes)
        return replace(self, routes=routes, experts=() if {*names} & {*dict(self.experts)} else self.experts)

    @property
    def is_one_attempt(self) -> bool:
        """Whether it makes one greedy attempt with tools at hand: what can be shown while it is written."""
        design = self.canonical()
        shaped = design.recursion_steps is not None or design.window is not None
        return (
            design.samples == 1
            and design.greedy_first
            and design.calculated == "no"
            and not (shaped or design.tools == "after" or design.routes)
        )

    def canonical(self) -> AgentDesign:
        """The same behaviour with what does not matter left at its default: equal ones behave equally."""
        found = self
        if self.think == "off":
            found = replace(found, thought_budget=AgentDesign.thought_budget, calculated="no")
        if self.tools == "never":
            found = replace(found, max_calls=AgentDesign.max_calls, calculated="no")
        if found.samples > 1 and found.temperature == 0:  # the same attempt each time, but for the calculator
            found = replace(found, greedy_first=True, samples=2 if found.calculated == "in turn" else 1)
        if found.samples == 1:
            found = replace(found, enough=0.0, checks=found.checks if found.tools == "after" else ())
            if found.calculated == "in turn":
                found = replace(found, calculated="no")
            if found.greedy_first or found.temperature == 0:
                found = replace(found, temperature=0.0, greedy_first=True)
        routes = {kind: design.canonical() for kind, design in self.routes}
        alone = replace(found, routes=())
        return replace(found, routes=tuple((kind, each) for kind, each in routes.items() if each != alone))

    def to_json(self) -> dict[str, Any]:
        """What ``agent.json`` holds; routes are named only where there are some."""
        row = {"format": FORMAT, **asdict(self), "checks": dict(self.checks), "experts": dict(self.experts)}
        del row["routes"]
        routes = {kind: design.to_json() for kind, design in self.routes}
        return row | ({"routes": routes} if routes else {})

    @classmethod
    def from_json(cls, value: Any, where: str = DESIGN) -> AgentDesign:
        """The inverse of `to_json`.

        Raises:
            ArtifactCorrupt: it is not a design of this format, or has a part that the language does not know.
        """
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise ArtifactCorrupt(f"{where} is no design of format {FORMAT}: {value!r:.120}")
        if unknown := sorted(set(value) - {"format", *(field.name for field in fields(cls))}):
            raise ArtifactCorrupt(f"{where} has {unknown[0]!r}, which designs do not know")
        parts = {name: part for name, part in value.items() if name != "format"}
        if "routes" in parts:
            if not isinstance(parts["routes"], dict):
                raise ArtifactCorrupt(f"{where}: routes {parts['routes']!r:.120} must be designs by kind of question")
            parts["routes"] = {
                kind: cls.from_json(row, f"{where}, route {kind!r}") for kind, row in parts["routes"].items()
            }
        try:
            return cls(**parts)
        except (TypeError, ValueError) as error:
            raise ArtifactCorrupt(f"{where}: {error}") from error

    def save(self, folder: Path) -> None:
        """Writes ``agent.json`` beside the weights."""
        text = json.dumps(self.to_json(), indent=1, sort_keys=True) + "\n"
        (Path(folder) / DESIGN).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> AgentDesign | None:
        """The design of a checkpoint folder, or None if it has none."""
        path = Path(folder) / DESIGN
        return cls.parse(path.read_bytes(), str(path)) if path.is_file() else None

    @classmethod
    def parse(cls, text: str | bytes, where: str = DESIGN) -> AgentDesign:
        """The design that a text of ``agent.json`` holds; raises as `from_json`."""
        try:
            return cls.from_json(json.loads(text), where)
        except ValueError as error:
            raise ArtifactCorrupt(f"{where} is not JSON: {error}") from error
