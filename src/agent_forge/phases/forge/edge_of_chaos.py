"""Where to practise: the level at whose questions the model succeeds about three times in four.

Idea: Zhang et al. 2024, "Intelligence at the Edge of Chaos" (arXiv:2410.02536): data of middling complexity teaches
most. The threshold of 75% comes from elsewhere (Wilson et al. 2019, "The Eighty Five Percent Rule for optimal
learning", Nature Communications 10:4646, derive 85% for binary choices; questions with exact answers cannot be
guessed, which lowers the best rate).

What we do differently:
1. Complexity is the model's own success on fresh questions with exact answers, level by level, not a property of data.
2. The level moves while training goes on: it is assessed anew before each stage.
3. Every kind of question has an edge of its own: one that stays hard must not hold back the others. (With one edge
   for all kinds the curriculum lost to sampling all levels alike; docs/log.md.)
4. At least a fifth of the practice is easier than the edge, so that nothing is lost on the way (retention).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

EASY_FRACTION = 0.2
"""The least share of practice below the edge, wherever there is a level below it."""


@dataclass(frozen=True)
class Tally:
    """Right answers by kind and level over all assessments; older ones count half as much each time.

    Attributes:
        counts: kind → level → (right, asked), fractional.
    """

    counts: Mapping[str, Mapping[int, tuple[float, float]]] = field(default_factory=dict)

    def after(self, found: Mapping[str, Mapping[int, tuple[int, int]]]) -> Tally:
        """With another assessment."""
        made: dict[str, dict[int, tuple[float, float]]] = {
            kind: {n: (right / 2, asked / 2) for n, (right, asked) in own.items()} for kind, own in self.counts.items()
        }
        for kind, own in found.items():
            kept = made.setdefault(kind, {})
            for n, (right, asked) in own.items():
                before = kept.get(n, (0.0, 0.0))
                kept[n] = (before[0] + right, before[1] + asked)
        return Tally(made)

    def rates(self) -> dict[str, dict[int, float]]:
        """Success by kind and level; half a right and half a wrong answer are added, as for a coin never thrown."""
        return {
            kind: {n: (right + 0.5) / (asked + 1) for n, (right, asked) in own.items()}
            for kind, own in self.counts.items()
        }

    def to_json(self) -> str:
        """As text, for a state."""
        return json.dumps({kind: {str(n): c for n, c in own.items()} for kind, own in self.counts.items()})

    @classmethod
    def from_json(cls, text: str) -> Tally:
        """The inverse of `to_json`."""
        value = json.loads(text)
        return cls({kind: {int(n): (c[0], c[1]) for n, c in own.items()} for kind, own in value.items()})


def edge_level(success: Mapping[int, float], *, wanted: float = 0.75, advance: float = 0.8) -> int:
    """The level to practise most.

    Args:
        success: share of right answers by level, 0–1.
        wanted: the rate that marks the edge.
        advance: from this rate on the next level takes its place.

    Returns:
        A level counts for no more than the levels below it: luck at a hard level is no reason to go there. Of these
        rates, the level whose rate is nearest to ``wanted`` (of equal ones the hardest where they are at or above
        it, the easiest where they are below), or the level above it where it is passed.

    Raises:
        ValueError: nothing was assessed, or a rate is no share.
    """
    if not success or any(not 0 <= rate <= 1 for rate in success.values()):
        raise ValueError(f"success rates must be shares of right answers by level, got {dict(success)}")
    levels = sorted(success)
    rates = dict(zip(levels, accumulate((success[n] for n in levels), min), strict=True))
    best = min(levels, key=lambda n: (abs(rates[n] - wanted), -n if rates[n] >= wanted else n))
    while rates[best] >= advance and best != levels[-1]:
        best = levels[levels.index(best) + 1]
    return best


def passed_levels(success: Mapping[int, float], advance: float = 0.8) -> list[int]:
    """Levels from the easiest on that are at ``advance`` or above, up to the first that is not."""
    passed: list[int] = []
    for level in sorted(success):
        if success[level] < advance:
            break
        passed.append(level)
    return passed


def mixture(
    levels: Sequence[int], edge: int, *, easy: float = 0.25, hard: float = 0.15, spread: float = 0.0
) -> dict[int, float]:
    """How much of each level to practise.

    Args:
        levels: all levels.
        edge: one of them.
        easy: share of the levels below, the same for each; at least `EASY_FRACTION`.
        hard: share of the levels above, each a third of the one before it.
        spread: chaos, 0–0.3: so much of the edge's own share goes to its neighbours, too.

    Returns:
        Shares by level, summing to 1; what has no level to go to stays at the edge.

    Raises:
        ValueError: the edge is no level, or shares that leave nothing to the edge or to what is easy.
    """
    if edge not in levels or not EASY_FRACTION <= easy < 1 or hard < 0 or easy + hard >= 1 or not 0 <= spread < 1:
        raise ValueError(f"no mixture of {list(levels)} around {edge}: {easy=} (at least 0.2), {hard=}, {spread=}")
    below = [n for n in levels if n < edge]
    above = sorted(n for n in levels if n > edge)
    shares = dict.fromkeys(levels, 0.0)
    for n in below:
        shares[n] = easy / len(below)
    weights = [3.0**-place for place in range(len(above))]
    for n, weight in zip(above, weights, strict=True):
        shares[n] = hard * weight / sum(weights)
    shares[edge] = 1 - sum(shares.values())
    neighbours = [n for n in (max(below, default=None), min(above, default=None)) if n is not None]
    moved = spread * shares[edge] if neighbours else 0.0
    shares[edge] -= moved
    for n in neighbours:
        shares[n] += moved / len(neighbours)
    return shares


def by_kind(
    rates: Mapping[str, Mapping[int, float]],
    levels: Sequence[int],
    *,
    wanted: float = 0.75,
    advance: float = 0.8,
    easy: float = 0.25,
    hard: float = 0.15,
    spread: float = 0.0,
) -> dict[str, dict[int, float]]:
    """A mixture for each kind of question around its own edge.

    Args:
        rates: success by kind and level.
        levels: all levels.
        wanted: as for `edge_level`.
        advance: as for `edge_level`.
        easy: as for `mixture`, and so are the rest.
        hard: share above the edge.
        spread: chaos.

    Returns:
        Shares by kind and level, summing to 1; a kind that is passed up to the last level gets a third of a share.
    """
    weights: dict[str, float] = {}
    found: dict[str, dict[int, float]] = {}
    for kind, success in sorted(rates.items()):
        edge = edge_level(success, wanted=wanted, advance=advance)
        weights[kind] = 1 / 3 if edge == max(levels) and success[edge] >= advance else 1.0
        found[kind] = mixture(levels, edge, easy=easy, hard=hard, spread=spread)
    total = sum(weights.values())
    return {kind: {n: weights[kind] / total * share for n, share in own.items()} for kind, own in found.items()}


def uniform(levels: Sequence[int]) -> dict[int, float]:
    """The control: every level the same."""
    return dict.fromkeys(levels, 1 / len(levels))


def gradient_noise(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """How much two gradients of one level disagree: ‖g₁ − g₂‖² / (‖g₁‖² + ‖g₂‖²).

    Returns:
        0 where they are equal, about 1 where they have nothing in common, up to 2 where they are opposed.
    """
    gap = sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True))
    size = sum(float(torch.sum(g.square())) for g in (*first, *second))
    return gap / size if size > 0 else 0.0
