"""The figures that count: champion, parents and control on the test split, measured once.

"Better" is a paired bootstrap over documents: what is hard for both models cancels out. Each domain weighs the
same, and differences are relative to the other model's bits per byte in that domain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from agent_forge.evaluation.bits_per_byte import Score
from agent_forge.evaluation.statistics import paired_bootstrap

Scores = Mapping[str, Score]


@dataclass(frozen=True)
class Gain:
    """How much better one model is than another.

    Attributes:
        relative: 1 − bits per byte / bits per byte of the other, mean over domains; above 0 is better.
        p_value: fraction of bootstrap draws in which it is not better.
        by_domain: relative gain per domain.
    """

    relative: float
    p_value: float
    by_domain: Mapping[str, float]


def gain(model: Scores, other: Scores, *, seed: int = 0) -> Gain:
    """Compares two models on the same documents.

    Args:
        model: scores by domain.
        other: the same domains and documents.
        seed: of the bootstrap.
    """
    first, second = [], []
    documents = sum(len(score.nats_per_document) for score in other.values())
    for domain in sorted(other):
        # Scaled so that the mean over all documents is the mean over domains of the ratio of bits per byte.
        scale = documents / (len(other) * other[domain].bits_per_byte * other[domain].bytes * math.log(2))
        first.append(model[domain].nats_per_document * scale)
        second.append(other[domain].nats_per_document * scale)
    a, b = numpy.concatenate(first), numpy.concatenate(second)
    by_domain = {d: 1 - model[d].bits_per_byte / other[d].bits_per_byte for d in sorted(other)}
    relative = sum(by_domain.values()) / len(by_domain)
    if numpy.array_equal(a, b):
        return Gain(0.0, 1.0, by_domain)
    return Gain(relative, 1 - paired_bootstrap(a, b, seed=seed).below_zero_fraction, by_domain)


def mean_bits(scores: Scores) -> float:
    """Bits per byte, mean over domains."""
    return sum(score.bits_per_byte for score in scores.values()) / len(scores)


def compare_on_test(
    champion: Scores, parents: Sequence[Scores], trunk: Scores, control: Scores | None, seed: int
) -> tuple[dict[str, float], dict[str, Any]]:
    """What gates read, and the table for the report page.

    The best parent is chosen on the test split itself, which is the strictest opponent.
    """
    best = min(range(len(parents)), key=lambda number: (mean_bits(parents[number]), number))
    against_parent = gain(champion, parents[best], seed=seed)
    figures = {
        "test_bits_per_byte": mean_bits(champion),
        "test_gain_over_best_parent": against_parent.relative,
        "test_gain_over_best_parent_p_value": against_parent.p_value,
        "test_gain_over_trunk": gain(champion, trunk, seed=seed).relative,
        "domains_won_fraction": sum(
            all(champion[d].bits_per_byte <= parent[d].bits_per_byte for parent in parents) for d in champion
        )
        / len(champion),
    }
    for domain, value in against_parent.by_domain.items():
        figures[f"test_gain_over_best_parent/{domain}"] = value
        figures[f"test_bits_per_byte/{domain}"] = champion[domain].bits_per_byte
    if control is not None:
        against_control = gain(champion, control, seed=seed)
        figures["random_search_margin"] = against_control.relative
        figures["random_search_p_value"] = against_control.p_value
    rows: dict[str, Scores] = {"champion": champion, "trunk": trunk}
    rows |= {f"parent {number}": parent for number, parent in enumerate(parents)}
    rows |= {} if control is None else {"best of random search": control}
    table = {
        name: {"mean": mean_bits(scores), **{d: scores[d].bits_per_byte for d in sorted(scores)}}
        for name, scores in rows.items()
    }
    return figures, {"best_parent": best, "bits_per_byte": table}
