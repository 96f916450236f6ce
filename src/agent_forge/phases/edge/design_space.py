"""Which designs are searched: the values of each gene, and seven designs written by hand.

The seven are what the literature offers, the strongest parts of the language among them: the search has to beat
the best of them, so none is left weak on purpose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from agent_forge.agent.answer_checks import CHECKS
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.thought_calculator import calculator_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.tokenizer import has_thoughts

_CHECK = "check "


@dataclass(frozen=True)
class DesignSpace:
    """Genes and their values; a genotype is an index into each.

    Attributes:
        genes: name → values; names of checks begin with ``check``.
    """

    genes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

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

    @property
    def sizes(self) -> np.ndarray:
        """[genes] number of values of each."""
        return np.array([len(values) for values in self.genes.values()])

    @property
    def num_designs(self) -> int:
        """Genotypes of the space; several may behave equally."""
        return int(np.prod(self.sizes.astype(object)))

    def design(self, genotype: Sequence[int] | np.ndarray) -> AgentDesign:
        """The design of a genotype, canonical."""
        values = {name: options[int(n)] for (name, options), n in zip(self.genes.items(), genotype, strict=True)}
        checks = {name.removeprefix(_CHECK): values.pop(name) for name in list(values) if name.startswith(_CHECK)}
        return AgentDesign(**values, checks=tuple((name, found) for name, found in checks.items() if found)).canonical()

    def genotype(self, design: AgentDesign) -> np.ndarray:
        """A genotype of a design; a value that the space does not have becomes the nearest, or the first."""
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
    """Seven designs by name, as far as the space allows them; equal ones are given once."""
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
    found: dict[AgentDesign, str] = {}
    for name, design in made.items():
        found.setdefault(space.design(space.genotype(design)), name)
    return {name: design for design, name in found.items()}
