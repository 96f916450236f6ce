"""Measuring a design: which questions it answers rightly, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import Equip, Memo, answer
from agent_forge.agent.routes import FirstPass
from agent_forge.agent.toolbox import Toolbox
from agent_forge.phases.edge.design_questions import Problem

_EARLY_MARGIN = 0.15


@dataclass(frozen=True)
class Trial:
    """What came of a design.

    Attributes:
        right: question by question.
        tokens: decoded for each question.
        blank: questions without any answer.
        size_bytes: of the model that the design asks for; 0 where it is the same for all designs.
        screened: it was so far behind on the first questions that the others were not asked.
        failed: why it could not be carried out; it counts as an evaluation, with nothing right.
    """

    right: tuple[bool, ...]
    tokens: tuple[int, ...]
    blank: int = 0
    size_bytes: float = 0.0
    screened: bool = False
    failed: str = ""

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0–1."""
        return float(np.mean(self.right)) if self.right else 0.0

    @property
    def mean_tokens(self) -> float:
        """Decoded for one question."""
        return float(np.mean(self.tokens)) if self.tokens else 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return asdict(self) | {"right": [int(right) for right in self.right], "tokens": list(self.tokens)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Trial:
        """The inverse of `to_json`."""
        return cls(**(value | {"right": tuple(map(bool, value["right"])), "tokens": tuple(value["tokens"])}))


@dataclass
class Bench:
    """Carries designs out; attempts are made once, whichever designs ask for them.

    Attributes:
        model, tokenizer, toolbox: the agent.
        seed: of the attempts.
        max_tokens: of the words of a turn.
        equip: puts a design's experts and pruning on; None = every design has the model as it is.
        first_pass: tells kinds of question apart; None = designs have no routes.
        size_of: bytes of the model that a design asks for; None = equal for all.
        memo: attempts so far.
        kinds: kinds of question so far.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    toolbox: Toolbox | None
    seed: int = 0
    max_tokens: int = 40
    equip: Equip | None = None
    first_pass: FirstPass | None = None
    size_of: Callable[[AgentDesign], float] | None = None
    memo: Memo = field(default_factory=dict, repr=False)
    kinds: dict[str, str] = field(default_factory=dict, repr=False)

    def recognised(self, questions: Sequence[str]) -> list[str]:
        """The first pass over questions, each read once in all.

        Raises:
            ValueError: there is none.
        """
        if self.first_pass is None:
            raise ValueError("nothing was given that tells kinds of question apart")
        if fresh := [asked for asked in dict.fromkeys(questions) if asked not in self.kinds]:
            self.kinds |= zip(fresh, self.first_pass(fresh), strict=True)
        return [self.kinds[asked] for asked in questions]

    def measure(self, design: AgentDesign, problems: Sequence[Problem], *, ahead: int = 4) -> Trial:
        """Asks all of the questions.

        Raises:
            ValueError, RuntimeError: the design cannot be carried out.
        """
        found = answer(
            self.model, self.tokenizer, self.toolbox, design, [problem.ask for problem in problems],
            first_pass=self.recognised, equip=self.equip, seed=self.seed, max_tokens=self.max_tokens, memo=self.memo,
            ahead=ahead,
        )  # fmt: skip
        right = tuple(problem.is_right(each.transcript) for problem, each in zip(problems, found, strict=True))
        size = 0.0 if self.size_of is None else self.size_of(design)
        return Trial(right, tuple(each.num_tokens for each in found), sum(each.is_blank for each in found), size)

    def screened(self, design: AgentDesign, problems: Sequence[Problem], screen: int, bound: float) -> Trial:
        """The same in three steps: a third of ``screen`` questions, these, all questions. It ends after the first
        if accuracy is below ``bound`` by 0.15, after the second if it is below ``bound``.

        What cannot be carried out is a failed trial.
        """
        try:
            for count, least in ((screen // 3, bound - _EARLY_MARGIN), (screen, bound)):
                if count and bound > 0:
                    first = self.measure(design, problems[:count])
                    if first.accuracy < least:
                        return replace(first, screened=True)
            return self.measure(design, problems)
        except (ValueError, RuntimeError) as error:
            return Trial((), (), failed=f"{type(error).__name__}: {error}")
