"""Practice by lineages: a question, its variants, and how often in a row they were answered rightly.

A lineage starts with one question. A right answer brings a variant of it (same kind, same level, other values), and
the streak goes on with the lineage; a wrong answer brings the streak back to 0 and the question stays. After three in
a row the lineage is mastered and another begins.

What we do differently: the specification counted per question and began anew with every variant, so that no
streak could ever reach three.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent_forge.phases.forge.questions import Question

STREAK = 3


@dataclass(frozen=True)
class Lineage:
    """One line of variants.

    Attributes:
        level: of its questions.
        kind: of its questions.
        streak: right answers in a row, over all variants.
        variants: how many questions it has had.
        wrong: wrong answers so far.
    """

    level: int
    kind: str
    streak: int = 0
    variants: int = 1
    wrong: int = 0

    @property
    def mastered(self) -> bool:
        """Three in a row."""
        return self.streak >= STREAK

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def answered(
    lineage: Lineage, question: Question, right: bool, variant: Callable[[Lineage], Question]
) -> tuple[Lineage, Question]:
    """What becomes of a lineage after an answer.

    Args:
        lineage: as it was.
        question: that was asked.
        right: whether the answer was.
        variant: gives another question of the lineage's level and kind.

    Returns:
        The lineage, and what it asks next: the same question after a wrong answer, a variant after a right one, and
        nothing new once it is mastered.
    """
    if not right:
        return replace(lineage, streak=0, wrong=lineage.wrong + 1), question
    grown = replace(lineage, streak=lineage.streak + 1)
    if grown.mastered:
        return grown, question
    return replace(grown, variants=grown.variants + 1), variant(grown)
