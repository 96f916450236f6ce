"""The loop of A- and B-cycles: rounds until both succeed or nothing gets better.

A round bakes the tools, then the persona, and is judged on the selection split. The best rounds are kept, and the best
of all is what the loop gives: the last one need not be it, since each cycle may cost the other something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_forge.phases.baking.course import Course

# Ordinary text may get worse by so much before a round is only second choice.
_TEXT_BOUND = 1.02


@dataclass(frozen=True)
class Round:
    """What a round came to: shares 0–1 and the ratio of bits on ordinary text."""

    number: int
    tools: float
    persona: float
    text_ratio: float

    @property
    def score(self) -> float:
        """The mean of both; the lower half of the scale where ordinary text has suffered."""
        mean = (self.tools + self.persona) / 2
        return mean if self.text_ratio <= _TEXT_BOUND else mean / 2


def plateau(scores: Sequence[float], window: int, minimum_gain: float) -> bool:
    """Whether the last ``window`` scores bring no relative gain over the best one before them."""
    if len(scores) <= window:
        return False
    return max(scores[-window:]) < max(scores[:-window]) * (1 + minimum_gain)


def alternate(
    course: Course,
    cycles: Sequence[Callable[[int], None]],
    judge: Callable[[], Mapping[str, float]],
    *,
    rounds: int,
    window: int,
    minimum_gain: float,
    target: float,
    kept: int,
) -> tuple[list[Round], str]:
    """Runs the loop and leaves the student with the weights of its best round.

    Args:
        course: runs the cycles.
        cycles: of a round, in order; each is given the number of the round.
        judge: ``tools``, ``persona`` and ``text_ratio`` on the selection split.
        rounds: at most.
        window: rounds without gain that are a plateau.
        minimum_gain: relative.
        target: of tools and persona; reached by both, the loop has succeeded.
        kept: best states that are kept.

    Returns:
        Every round, and why the loop ended: "success", "plateau" or "rounds".
    """
    found: list[Round] = []
    ended = "rounds"
    for number in range(rounds):
        for cycle in cycles:
            cycle(number)
        figures = course.remember(f"round {number}", judge)
        found.append(Round(number, figures["tools"], figures["persona"], figures["text_ratio"]))
        best = sorted(found, key=lambda entry: (-entry.score, entry.number))
        # On a resume later rounds may have replaced this one already.
        if found[-1] in best[:kept] and f"tools {number + 1}" not in course.finished:
            course.keep(f"round {number}")
        for entry in best[kept:]:
            course.drop(f"round {entry.number}")
        course.context.log({"baking/tools": found[-1].tools, "baking/persona": found[-1].persona}, course.step)
        if found[-1].tools >= target and found[-1].persona >= target and found[-1].text_ratio <= _TEXT_BOUND:
            ended = "success"
            break
        if plateau([entry.score for entry in found], window, minimum_gain):
            ended = "plateau"
            break
    champion = min(found, key=lambda entry: (-entry.score, entry.number))
    if "recovery" not in course.finished and f"round {champion.number}" in course.kept:
        course.student.load(course.kept[f"round {champion.number}"])
    return found, ended
