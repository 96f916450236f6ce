"""What each row of a design was worth on each kind of question, and designs made of the best rows.

A design with routes answers each kind by one row, so its right answers are a sum over kinds: whatever else stood in a
design, what a row did for its kind is known from then on. Parts that are known to be good are put together instead of
waiting for crossover to do it (optimal mixing: Thierens and Bosman 2011, GECCO).

What we do differently:
1. The last choice is among a few rows of each kind, on further questions besides those that ranked them: of many rows
   on few questions the best was lucky. A default that serves all kinds stays only where no row does better. (To ask
   for a whole standard error more than the default lost questions in replays, with 12 to 90 of them for each kind.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agent_forge.agent.design import AgentDesign
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Trial

ALL = ""
"""The one kind of a space without routes."""


@dataclass(frozen=True)
class Worth:
    """What a row did on the questions of a kind.

    Attributes:
        right: [questions] 0 or 1.
        tokens: decoded for each of them.
    """

    right: np.ndarray
    tokens: np.ndarray

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: wrong answers, then tokens."""
        return (-float(self.right.sum()), float(self.tokens.sum()))

    def and_then(self, other: Worth) -> Worth:
        """The same row on these and on other questions."""
        return Worth(np.concatenate([self.right, other.right]), np.concatenate([self.tokens, other.tokens]))


class Rows:
    """Rows by kind, with what they were worth on the same questions.

    Args:
        space: of the designs.
        recognised: the kind of each question, as the first pass tells it; without routes it does not matter.
    """

    def __init__(self, space: DesignSpace, recognised: Sequence[str]) -> None:
        self.space = space
        self.kinds = tuple(space.kinds) or (ALL,)
        told = recognised if space.kinds else [ALL] * len(recognised)
        self.places = {kind: [n for n, name in enumerate(told) if name == kind] for kind in self.kinds}
        self.num_questions = len(told)
        self._worth: dict[str, dict[AgentDesign, Worth]] = {kind: {} for kind in self.kinds}
        self._tried: dict[str, set[AgentDesign]] = {kind: set() for kind in self.kinds}

    def parts(self, design: AgentDesign, trial: Trial) -> dict[str, tuple[AgentDesign, Worth]]:
        """What a whole trial says about the row of each kind."""
        right, tokens = np.array(trial.right, float), np.array(trial.tokens, float)
        return {
            kind: (design.route(kind).canonical(), Worth(right[places], tokens[places]))
            for kind, places in self.places.items()
        }

    def add(self, design: AgentDesign, trial: Trial) -> None:
        """Learns from a trial; one that was screened says only that its rows were tried, a failed one nothing."""
        if trial.failed:
            return
        whole = len(trial.right) == self.num_questions
        for kind in self.kinds:
            self._tried[kind].add(design.route(kind).canonical())
        for kind, (row, worth) in self.parts(design, trial).items() if whole else ():
            self._worth[kind][row] = worth

    def was_tried(self, block: int, genes: np.ndarray) -> bool:
        """Whether the row of these genes was tried on the kind of that number."""
        return self.space.row(genes) in self._tried[self.kinds[block]]

    def worth(self, kind: str, row: AgentDesign) -> Worth:
        """Of a row that was tried in whole."""
        return self._worth[kind][row]

    def composed(self, place: int = 0) -> AgentDesign:
        """Of each kind the row at this place, best first; the last one where there are fewer."""
        chosen = {}
        for kind, known in self._worth.items():
            ranked = sorted(known, key=lambda row: known[row].rank)
            chosen[kind] = ranked[min(place, len(ranked) - 1)]
        return self.space.composed(chosen)

    def settled(
        self, default: AgentDesign, candidates: Sequence[AgentDesign], further: Rows, found: Mapping[AgentDesign, Trial]
    ) -> AgentDesign:
        """For each kind the row with the most right answers, then the fewest tokens; the default where it is as good.

        Args:
            default: a design without routes, tried on these questions and on further ones.
            candidates: designs whose rows were tried on these questions.
            further: the same kinds on further questions, if there are any.
            found: trials of default and candidates on those; empty without.
        """
        chosen = {}
        for kind in self.kinds:
            known: dict[AgentDesign, Worth] = {}
            for design in (default, *candidates):
                row = design.route(kind).canonical()
                known[row] = self.worth(kind, row)
                if design in found:
                    known[row] = known[row].and_then(further.parts(design, found[design])[kind][1])
            chosen[kind] = min(known, key=lambda row: known[row].rank)  # the default is known first
        return self.space.composed(chosen)
