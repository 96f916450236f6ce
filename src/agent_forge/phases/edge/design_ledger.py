"""What is known of the designs that were tried: trials by design, kept for resume, and what follows from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from agent_forge.agent.design import AgentDesign
from agent_forge.contract import canonical_json, digest_of
from agent_forge.phases.edge.design_questions import Problem
from agent_forge.phases.edge.design_rows import Rows
from agent_forge.phases.edge.design_space import DesignSpace, hand_written
from agent_forge.phases.edge.design_trial import Bench, Trial
from agent_forge.phases.edge.nsga2 import non_dominated

Save: TypeAlias = Callable[[Mapping[str, Any], int], None]
"""Told the state after an evaluation, and how many there were: for `Context.checkpoint`. It may raise to stop."""
_SCREEN_MARGIN = 0.15
USELESS = (1e4, 1e12)
"""Tokens and bytes of a design that is of no use; finite, because the distances of a crowd are differences."""


@dataclass(frozen=True)
class Questions:
    """What is asked: to rank, to choose among finalists (both of the selection split), and for the verdict (test)."""

    ranking: Sequence[Problem]
    further: Sequence[Problem]
    test: Sequence[Problem]


class Ledger:
    """Trials on the ranking questions, each made once.

    Args:
        bench: the agent.
        questions: what it is asked.
        space: of the designs.
        screen: questions after which a design that is far behind is given up.
        restored: the state that ``save`` was given last.
        save: called after each new evaluation.
        progress: told done, total and a note.

    Attributes:
        by_hand: the designs by hand.
        rows: what each row was worth on each kind of question.
        bound: share of right answers on the first questions below which a design is far behind.
        total: evaluations that are expected, for ``progress``.
    """

    def __init__(
        self,
        bench: Bench,
        questions: Questions,
        space: DesignSpace,
        screen: int,
        restored: Mapping[str, Any] | None,
        save: Save | None,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.bench, self.questions, self.space = bench, questions, space
        self.screen = min(screen, len(questions.ranking))
        self._save, self._progress = save, progress
        self.by_hand = hand_written(space)
        self.rows = self.rows_of(questions.ranking)
        self.bound, self.total = 0.0, len(self.by_hand)
        rows = {} if restored is None else json.loads(restored["trials"])
        self.trials = {digest: Trial.from_json(row) for digest, row in rows.items()}

    def rows_of(self, problems: Sequence[Problem]) -> Rows:
        """No rows yet, on questions whose kinds the first pass tells."""
        asked = [problem.ask for problem in problems]
        return Rows(self.space, self.bench.recognised(asked) if self.space.kinds else asked)

    def begin(self) -> AgentDesign:
        """Measures the designs by hand, all questions each; gives the best."""
        for design in self.by_hand.values():
            self.try_(design)
        best = min(self.by_hand.values(), key=self.rank)
        first = float(np.mean(self.known(best).right[: self.screen]))
        self.bound = min(first, self.known(best).accuracy) - _SCREEN_MARGIN  # else the best itself may be behind it
        return best

    def try_(self, design: AgentDesign) -> Trial:
        """Its trial on the ranking questions, made once."""
        digest = digest_of(design.to_json())
        if digest not in self.trials:
            self.trials[digest] = self.bench.screened(design, self.questions.ranking, self.screen, self.bound)
            count = len(self.trials)
            if self._progress is not None:
                self._progress(count, max(count, self.total), f"design {count}")
            if self._save is not None:
                rows = {name: trial.to_json() for name, trial in self.trials.items()}
                self._save({"trials": canonical_json(rows)}, count)
        self.rows.add(design, self.trials[digest])
        return self.trials[digest]

    def known(self, design: AgentDesign) -> Trial:
        """The trial of a design that was tried."""
        return self.trials[digest_of(design.to_json())]

    def name(self, design: AgentDesign) -> str:
        """Of a design by hand, else ``searched``."""
        return next((name for name, each in self.by_hand.items() if each == design), "searched")

    def front(self, designs: Sequence[AgentDesign]) -> list[dict[str, Any]]:
        """Those that none beats on the ranking questions, the most accurate first."""
        kept = sorted(self._best(designs), key=self.rank)
        return [{**self._row(design), "blank": self.known(design).blank, "design": design.to_json()} for design in kept]

    def points(self, designs: Sequence[AgentDesign], chosen: AgentDesign) -> list[dict[str, Any]]:
        """Every design that was asked all of the ranking questions, whether it is on the front, and the chosen one."""
        front = self._best(designs)
        return [
            {**self._row(design), "front": design in front, "chosen": design == chosen}
            for design in sorted(self._whole(designs), key=self.rank)
        ]

    def _whole(self, designs: Sequence[AgentDesign]) -> list[AgentDesign]:
        return [d for d in dict.fromkeys(designs) if not (self.known(d).failed or self.known(d).screened)]

    def _best(self, designs: Sequence[AgentDesign]) -> list[AgentDesign]:
        whole = self._whole(designs)
        return [whole[n] for n in non_dominated(np.array([self.objectives(self.known(d)) for d in whole]))]

    def _row(self, design: AgentDesign) -> dict[str, Any]:
        trial = self.known(design)
        return {
            "name": self.name(design),
            "accuracy": trial.accuracy,
            "tokens": trial.mean_tokens,
            "size_bytes": trial.size_bytes,
        }

    def rank(self, design: AgentDesign) -> tuple[float, float]:
        """Smaller is better: accuracy, then tokens; screened ones behind, failed ones last."""
        trial = self.known(design)
        return (1.0 + trial.screened + 2 * bool(trial.failed) - trial.accuracy, trial.mean_tokens)

    def objectives(self, trial: Trial) -> tuple[float, float, float]:
        """What is to be small; a design far behind is of no use however cheap, so that none is kept for its price."""
        if trial.failed or trial.screened or trial.accuracy < self.bound:
            return (2.0 - trial.accuracy, *USELESS)
        return (1.0 - trial.accuracy, trial.mean_tokens, trial.size_bytes)
