"""A mixture of experts for a task that is known by a few examples, or the base.

Paper: Sun, Cetin and Tang 2025, "Transformer²" (arXiv:2501.06252, section 3.2: a search over mixing weights on a few
examples). The search is the cross-entropy method (Rubinstein and Kroese 2004).

What we do differently: a mixture is searched for on one half of the examples and judged on the other, and both halves
hold every skill of the task. Where it is not clearly better there than the base, the base is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.evaluation.statistics import clearly_lower
from agent_forge.model.expert_vectors import Expert, applied, basis_of, mixed

FEWEST = 4
"""Examples that a search needs: two to search with and two to judge by."""


@dataclass(frozen=True)
class Mixing:
    """What a search over mixing weights came to.

    Attributes:
        weights: α of each expert; all zero where the base was taken.
        mixture: None where the base was taken.
        base_nats: per token, of the judged examples under the base; None where nothing was searched.
        mixture_nats: the same under the best mixture that was found, taken or not.
        evaluations: mixtures that were tried.
    """

    weights: tuple[float, ...]
    mixture: Expert | None = None
    base_nats: float | None = None
    mixture_nats: float | None = None
    evaluations: int = 0


def search_mixture(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    experts: Sequence[Expert],
    examples: Sequence[Sequence[Document]],
    *,
    generator: torch.Generator,
    population: int = 12,
    generations: int = 4,
    elite_fraction: float = 0.25,
    max_length: int = 128,
) -> Mixing:
    """The mixture for a task that is known by a few examples, or the base where no mixture is clearly better.

    Args:
        model: the base.
        tokenizer: its tokenizer.
        experts: at least one, all of this model.
        examples: of the task, by skill; at least `FEWEST` in all, none of them used for a figure later.
        generator: of the draws.
        population: mixtures of a generation.
        generations: of the search.
        elite_fraction: the best share, from which the next generation is drawn.
        max_length: tokens of an example that are read.

    Raises:
        ValueError: fewer than `FEWEST` examples.
    """
    if (count := sum(map(len, examples))) < FEWEST:
        raise ValueError(f"a search needs at least {FEWEST} examples, got {count}: half of them are for judging")
    shown, judged = halves(examples)
    basis_of(model, max(len(z) for z in experts[0].vectors.values()))
    tried: dict[tuple[float, ...], float] = {}

    def cost(weights: tuple[float, ...]) -> float:
        if weights not in tried:
            with applied(model, mixed(experts, weights)):
                tried[weights] = answer_nats(model, tokenizer, shown, max_length=max_length).mean
        return tried[weights]

    best = cross_entropy_search(
        cost, len(experts), generator=generator, population=population, generations=generations,
        elite_fraction=elite_fraction,
    )  # fmt: skip
    before = answer_nats(model, tokenizer, judged, max_length=max_length)
    mixture = mixed(experts, best)
    with applied(model, mixture):
        after = answer_nats(model, tokenizer, judged, max_length=max_length)
    taken = clearly_lower(after.nats, before.nats)
    return Mixing(
        best if taken else (0.0,) * len(experts), mixture if taken else None, before.mean, after.mean, len(tried)
    )


def halves(examples: Sequence[Sequence[Document]]) -> tuple[list[Document], list[Document]]:
    """Every second example and the others, skill after skill: a skill with two examples or more is in both halves."""
    every = [document for skill in examples for document in skill]
    return every[::2], every[1::2]


def cross_entropy_search(
    cost: Callable[[tuple[float, ...]], float],
    count: int,
    *,
    generator: torch.Generator,
    population: int,
    generations: int,
    elite_fraction: float,
) -> tuple[float, ...]:
    """Weights in [−0.5, 1.5] of least cost (Rubinstein and Kroese 2004); each alone and their mean are tried too.

    Args:
        cost: of weights; not finite counts as infinite.
        count: of weights.
        generator: of the draws.
        population: draws of a generation, at least 2.
        generations: at least 1.
        elite_fraction: best share that gives the next mean and spread, 0–1.

    Raises:
        ValueError: a size is out of range.
    """
    if count < 1 or population < 2 or generations < 1 or not 0 < elite_fraction <= 1:
        raise ValueError(f"cannot search {count} weights with {population} × {generations}, elite {elite_fraction}")
    known = [tuple(float(n == k) for k in range(count)) for n in range(count)] + [(1.0 / count,) * count]
    mean, spread = torch.full((count,), 0.5), torch.full((count,), 0.5)
    found: list[tuple[float, tuple[float, ...]]] = []
    for _ in range(generations):
        drawn = mean + spread * torch.randn(population, count, generator=generator)
        rows = known + [tuple(round(w, 3) for w in row) for row in drawn.clamp(-0.5, 1.5).tolist()]
        known = []
        for weights in rows:
            value = cost(weights)
            found.append((value if math.isfinite(value) else math.inf, weights))
        found.sort()
        elite = torch.tensor([weights for _, weights in found[: max(2, round(elite_fraction * population))]])
        mean, spread = elite.mean(0), elite.std(0).clamp(min=0.02)
    return found[0][1]
