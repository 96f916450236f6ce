"""How sure we are that one model is better than another on the same documents.

Paired bootstrap (Efron and Tibshirani 1993, ch. 16; for language models Koehn 2004): documents are drawn again with
replacement, and the difference is computed on each draw. What is easy or hard for both models cancels out. Of a few
right and wrong answers that hardly differ a bootstrap knows too little: for those there is the score interval of Tango
(1998, Statistics in Medicine 17, 891-908).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from agent_forge.evaluation.bits_per_byte import Score


@dataclass(frozen=True)
class Difference:
    """First minus second, with its uncertainty.

    Attributes:
        difference: of the whole.
        low: 2.5th percentile of the draws.
        high: 97.5th percentile.
        below_zero_fraction: draws in which the first is smaller.
        documents: how many were compared.
    """

    difference: float
    low: float
    high: float
    below_zero_fraction: float
    documents: int

    @property
    def clear(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.low > 0 or self.high < 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, sizes: np.ndarray | None = None, *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """The difference of two weighted means over the same items.

    Args:
        first: [D] totals per item, e.g. bits of each document under one model.
        second: [D] the same under the other.
        sizes: [D] what each total is divided by, e.g. bytes; None = 1 each.
        resamples: draws.
        seed: of the draws.

    Raises:
        ValueError: shapes differ, there is no item, or all sizes are zero.
    """
    first, second = np.asarray(first, float), np.asarray(second, float)
    sizes = np.ones_like(first) if sizes is None else np.asarray(sizes, float)
    if first.shape != second.shape or first.shape != sizes.shape or first.ndim != 1 or not len(first):
        raise ValueError(
            f"paired items need equal, one-dimensional shapes: {first.shape}, {second.shape}, {sizes.shape}"
        )
    if sizes.sum() <= 0:
        raise ValueError("the sizes sum to zero")
    gap = first - second
    generator = np.random.Generator(np.random.Philox(key=seed))
    draws = np.empty(resamples)
    for start in range(0, resamples, 256):  # bounded memory: 256 draws at a time
        count = min(256, resamples - start)
        times = generator.multinomial(len(gap), np.full(len(gap), 1 / len(gap)), size=count)
        weight = times @ sizes
        draws[start : start + count] = np.divide(times @ gap, weight, out=np.zeros(count), where=weight > 0)
    low, high = np.percentile(draws, [2.5, 97.5])
    whole = float(gap.sum() / sizes.sum())
    return Difference(whole, float(low), float(high), float((draws < 0).mean()), len(gap))


def compare_scores(first: Score, second: Score, *, resamples: int = 2000, seed: int = 0) -> Difference:
    """Difference in bits per byte of two scores of the same texts: below zero means that the first is better.

    Raises:
        ValueError: they are not scores of the same texts.
    """
    if not np.array_equal(first.bytes_per_document, second.bytes_per_document):
        raise ValueError("the two scores are of different texts")
    bits = [score.nats_per_document / math.log(2) for score in (first, second)]
    return paired_bootstrap(bits[0], bits[1], first.bytes_per_document, resamples=resamples, seed=seed)


ONE_SIDED = 1.6449
"""Standard deviations that 95% of a normal distribution lie below."""


def most_lost(before: Sequence[bool], after: Sequence[bool], *, deviations: float = ONE_SIDED) -> float:
    """How much may have been lost at most: upper end of the one-sided score interval (Tango 1998, section 3).

    Without any difference between n answers that is still z² / (n + z²): so few questions cannot show less.

    Args:
        before: whether each question was answered right.
        after: the same questions, later.
        deviations: of the interval; 1.645 = 95%.

    Returns:
        Share of right answers lost, less those gained, −1 to 1.

    Raises:
        ValueError: not as many answers on both sides, or none.
    """
    count = len(before)
    if count != len(after) or not count:
        raise ValueError(f"{count} answers before and {len(after)} after: the same questions are needed, one at least")
    lost = sum(was and not now for was, now in zip(before, after, strict=True))
    gained = sum(now and not was for was, now in zip(before, after, strict=True))
    low, high = (lost - gained) / count, 1.0
    for _ in range(60):  # the statistic falls as the supposed loss grows
        middle = (low + high) / 2
        if _tango(lost, gained, count, middle) > -deviations:
            low = middle
        else:
            high = middle
    return high


def surely_lost(before: Sequence[bool], after: Sequence[bool]) -> float:
    """How much was lost at least: lower end of the interval of `most_lost`, what luck does not explain."""
    return -most_lost(after, before)


def clearly_lower(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the mean of paired ``first`` − ``second`` lies below zero by more than its standard error."""
    gap = np.asarray(first, float) - np.asarray(second, float)
    error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else math.inf
    return bool(np.isfinite(gap).all() and gap.mean() < -error)


def _tango(lost: int, gained: int, count: int, loss: float) -> float:
    """Score statistic of a supposed net ``loss``: distance of what was seen, in standard deviations under it."""
    # the likeliest share of gains, given the loss
    a = 2.0 * count
    b = -lost - gained + (2 * count - lost + gained) * loss
    c = -gained * loss * (1 - loss)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = count * (2 * share + loss * (1 - loss))
    gap = lost - gained - count * loss
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0
