"""Which designs are searched: the values of each gene, and designs written by hand.

Seven of those are what the literature offers, the strongest parts of the language among them: the search has to beat
the best of them, so none is left weak on purpose. With routes there is an eighth: what an engineer would guess for each
kind of question before any is asked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from agent_forge.agent.answer_checks import CHECKS
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.thought_calculator import calculator_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.tokenizer import has_thoughts

Nature: TypeAlias = Literal["thought", "call", "neither"]
"""What a kind of question needs: a worked thought, a tool, or plain words."""
_CHECK = "check "


@dataclass(frozen=True)
class DesignSpace:
    """Genes and their values; a genotype is an index into each, one block of all genes for each route.

    Attributes:
        genes: name → values; names of checks begin with ``check``.
        kinds: kind of question → its nature; each may have a route. None: one block, designs without routes.
    """

    genes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    kinds: Mapping[str, Nature] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        toolbox: Toolbox | None,
        *,
        max_samples: int = 8,
        thought_budgets: Sequence[int] = (8, 16, 32, 64),
        recursion_steps: Sequence[int | None] = (None,),
        windows: Sequence[int | None] = (None,),
        experts: Sequence[Mapping[str, float]] = ({},),
        prunings: Sequence[str] = ("",),
    ) -> DesignSpace:
        """What this agent can do, with the options that the caller offers.

        Args:
            tokenizer: asked whether the agent thinks.
            toolbox: its tools, or None.
            max_samples: attempts of a design at most.
            thought_budgets: tokens of a thought.
            recursion_steps, windows, experts, prunings: as in `AgentDesign`.
        """
        thinks, calls = has_thoughts(tokenizer), toolbox is not None and len(toolbox) > 0
        counts = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32) if n <= max_samples]
        genes: dict[str, tuple[Any, ...]] = {
            "think": ("auto", "on", "off") if thinks else ("auto",),
            "tools": ("first", "after", "never") if calls else ("never",),
            "samples": tuple(counts),
            "temperature": (0.3, 0.5, 0.7, 1.0),
            "greedy_first": (True, False),
            "calculated": ("no", "yes", "in turn") if thinks and calculator_of(toolbox) else ("no",),
            "enough": (0.0, 1.0, 1.5, 2.0, 3.0),
            "thought_budget": tuple(thought_budgets) if thinks else (AgentDesign.thought_budget,),
            "max_calls": (1, 2, 4, 8) if calls else (AgentDesign.max_calls,),
            "recursion_steps": tuple(recursion_steps),
            "window": tuple(windows),
            "experts": tuple(tuple(sorted(mixture.items())) for mixture in experts),
            "pruning": tuple(prunings),
        }
        return cls(genes | {f"{_CHECK}{name}": ("", "doubt", "reject") for name in CHECKS})

    def routed(self, kinds: Mapping[str, Nature]) -> DesignSpace:
        """The same genes, once for each kind of question."""
        return replace(self, kinds=dict(kinds))

    @property
    def blocks(self) -> int:
        """Rows of genes in a genotype: one for each route, or one."""
        return max(1, len(self.kinds))

    @property
    def sizes(self) -> np.ndarray:
        """[blocks × genes] number of values of each."""
        return np.tile(np.array([len(values) for values in self.genes.values()]), self.blocks)

    @property
    def num_designs(self) -> int:
        """Genotypes of the space; several may behave equally."""
        return int(np.prod(self.sizes.astype(object)))

    @property
    def habit(self) -> AgentDesign:
        """One greedy attempt, as the agent comes, within the largest bounds of the space."""
        habit = AgentDesign(thought_budget=max(self.genes["thought_budget"]), max_calls=max(self.genes["max_calls"]))
        return self.row(self._genes_of(habit))

    def design(self, genotype: Sequence[int] | np.ndarray) -> AgentDesign:
        """The design of a genotype, canonical."""
        width = len(self.genes)
        rows = [self.row(genotype[block * width : (block + 1) * width]) for block in range(self.blocks)]
        return self.composed(dict(zip(self.kinds, rows, strict=True))) if self.kinds else rows[0]

    def row(self, genes: Sequence[int] | np.ndarray) -> AgentDesign:
        """The design of one block: without routes, canonical."""
        values = {name: options[int(n)] for (name, options), n in zip(self.genes.items(), genes, strict=True)}
        checks = {name.removeprefix(_CHECK): values.pop(name) for name in list(values) if name.startswith(_CHECK)}
        return AgentDesign(**values, checks=tuple((name, found) for name, found in checks.items() if found)).canonical()

    def composed(self, rows: Mapping[str, AgentDesign]) -> AgentDesign:
        """The design with these rows as routes; one without routes where all are alike.

        What is of none of the kinds was not measured: the outer row is the habit.
        """
        first = next(iter(rows.values()))
        if all(row == first for row in rows.values()):
            return first
        return replace(self.habit, routes=tuple(rows.items())).canonical()

    def genotype(self, design: AgentDesign) -> np.ndarray:
        """A genotype of a design; a value that the space does not have becomes the nearest, or the first."""
        return np.concatenate([self._genes_of(design.route(kind)) for kind in self.kinds or ("",)])

    def _genes_of(self, design: AgentDesign) -> np.ndarray:
        """One block."""
        checks = dict(design.checks)
        found = []
        for name, options in self.genes.items():
            check = name.startswith(_CHECK)
            value = checks.get(name.removeprefix(_CHECK), "") if check else getattr(design, name)
            if value in options:
                found.append(options.index(value))
            elif isinstance(value, (int, float)) and all(isinstance(option, (int, float)) for option in options):
                found.append(min(range(len(options)), key=lambda n: abs(options[n] - value)))
            else:
                found.append(0)
        return np.array(found)

    def random(self, generator: np.random.Generator) -> np.ndarray:
        """A genotype, each value equally likely."""
        return generator.integers(0, self.sizes)


def hand_written(space: DesignSpace) -> dict[str, AgentDesign]:
    """Seven designs by name, alike for all questions, and one routed by nature; as far as the space allows them.

    Equal ones are given once.
    """
    most, budget = max(space.genes["samples"]), max(space.genes["thought_budget"])
    calls = max(space.genes["max_calls"])
    common: dict[str, Any] = {"thought_budget": budget, "max_calls": calls}
    several = common | {"samples": most, "temperature": 0.7}
    every = tuple((name, "reject") for name in CHECKS)
    made = {
        "habit": AgentDesign(**common),
        "direct": AgentDesign(think="off", tools="never", **common),
        "thought": AgentDesign(think="on", tools="never", **common),
        "calculated thought": AgentDesign(calculated="yes", **common),
        "self-consistency": AgentDesign(greedy_first=False, **several),
        "verified": AgentDesign(checks=every, enough=1.0, **several),
        "everything": AgentDesign(checks=every, enough=1.0, calculated="yes", **several),
    }
    if space.kinds:
        guess = {"thought": "calculated thought", "call": "verified", "neither": "direct"}
        routes = {
            kind: replace(made[guess[nature]], experts=_named(space, kind)) for kind, nature in space.kinds.items()
        }
        made["routed"] = replace(made["habit"], routes=tuple(routes.items()))
    found: dict[AgentDesign, str] = {}
    for name, design in made.items():
        found.setdefault(space.design(space.genotype(design)), name)
    return {name: design for design, name in found.items()}


def _named(space: DesignSpace, kind: str) -> tuple[tuple[str, float], ...]:
    """The expert that has the name of a kind (``thoughts/view`` for ``view 4``), if the space offers it; else none."""
    strategy = kind.split(",")[0].rpartition(" ")[0]
    offered = [mixture for mixture in space.genes["experts"] if len(mixture) == 1]
    return next((mixture for mixture in offered if mixture[0][0].rpartition("/")[2] == strategy), ())
