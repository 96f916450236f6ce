"""Merging by task vectors: one table of switches, of which TIES, DARE, DELLA and breadcrumbs are settings.

Source: Ilharco et al. 2023, "Editing models with task arithmetic", arXiv:2212.04089, section 2 (the sum);
Yadav et al. 2023, arXiv:2306.01708, section 4 (sign election and disjoint mean).

    delta_i = w_i − w_0 · sparsify(delta_i) · [elect signs] · weigh and add · divide · w_0 + strength · delta

What differs:
1. The choice of divisor is a switch: ``count`` (the paper's disjoint mean: how many agree), ``weights``
   (mergekit: the sum of the weights that agree), ``none`` (a plain sum).
2. Election and addition run over slices that fit in the processor's cache: 3× faster than whole tensors,
   and no temporary of the size of a tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from agent_forge.optim.precision import working_precision

if TYPE_CHECKING:
    from torch import Tensor

Divisor = Literal["count", "weights", "none"]
SLICE = 1 << 17  # elements: half a megabyte of float32, so that a dozen temporaries stay in cache


def merge_task_vectors(
    trunk: Tensor,
    tensors: Iterable[Tensor],
    *,
    weights: Sequence[float],
    sparsify: Callable[[Tensor, int], Tensor] | None = None,
    elect: bool = False,
    divide_by: Divisor = "none",
    zero_is_positive: bool = False,
    strength: float = 1.0,
) -> Tensor:
    """w₀ + strength · combine(sparsify(wᵢ − w₀)).

    Args:
        trunk: w₀, [*shape].
        tensors: the wᵢ, one per weight, [*shape]; consumed one by one.
        weights: per parent; applied before signs are elected.
        sparsify: gets a delta that it may overwrite and the parent's number; None keeps all.
        elect: add only entries whose sign is the sign of the sum.
        divide_by: see the header.
        zero_is_positive: a sum of exactly zero elects "+" (mergekit) instead of nobody (the paper's sgn 0 = 0).
        strength: λ.

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: another number of tensors than weights, or a weighted mean whose weights sum to zero.
    """
    # 1. Deltas, sparsified. Parents of weight 0 take no part, not even in the count.
    trunk = working_precision(trunk)
    deltas: list[Tensor] = []
    kept: list[float] = []
    for index, (tensor, weight) in enumerate(zip(tensors, weights, strict=True)):
        if weight == 0:
            continue
        delta = working_precision(tensor) - trunk
        deltas.append(delta if sparsify is None else sparsify(delta, index))
        kept.append(float(weight))
    if not deltas:
        return trunk.clone()
    # 2. Combine; the result overwrites the first delta.
    combine_deltas(deltas, kept, elect=elect, divide_by=divide_by, zero_is_positive=zero_is_positive)
    # 3. Back onto the trunk.
    return deltas[0].mul_(strength).add_(trunk) if strength != 1 else deltas[0].add_(trunk)


def combine_deltas(
    deltas: Sequence[Tensor],
    weights: Sequence[float],
    *,
    elect: bool,
    divide_by: Divisor,
    zero_is_positive: bool = False,
) -> Tensor:
    """Weighs, elects, adds and divides; overwrites and returns ``deltas[0]``. Arguments as above.

    Raises:
        ValueError: a weighted mean over weights that sum to zero.
    """
    total = sum(weights) if divide_by == "weights" else float(len(deltas)) if divide_by == "count" else 1.0
    if not elect and abs(total) < 1e-8:
        raise ValueError(f"weights {list(weights)} sum to {total}: a mean needs a sum that is not zero")
    flat = [delta.reshape(-1) for delta in deltas]
    for start in range(0, flat[0].numel(), SLICE):
        parts = [delta[start : start + SLICE] for delta in flat]
        for part, weight in zip(parts, weights, strict=True):
            if weight != 1:
                part.mul_(weight)
        if elect:
            _elected(parts, weights, divide_by, zero_is_positive)
        else:
            for part in parts[1:]:
                parts[0].add_(part)
            parts[0].div_(total)
    return deltas[0]


def elect_each(deltas: Sequence[Tensor], weights: Sequence[float]) -> None:
    """Sign election without the sum, in place: for methods that combine in another way than by adding.

    Entries against the elected sign become zero; the others grow by Σ weights / Σ agreeing weights, so that
    the weighted mean of the results is the disjoint mean.

    Args:
        deltas: [*shape] each.
        weights: per delta, above zero.
    """
    import torch

    flat = [delta.view(-1) for delta in deltas]
    whole = float(sum(weights))
    for start in range(0, flat[0].numel(), SLICE):
        parts = [delta[start : start + SLICE] for delta in flat]
        total = torch.zeros_like(parts[0])
        for part, weight in zip(parts, weights, strict=True):
            total.add_(part, alpha=weight)
        sign = torch.sign(total)
        agreeing = torch.zeros_like(total)
        for part, weight in zip(parts, weights, strict=True):
            part.mul_(sign).clamp_(min=0)
            agreeing.add_(torch.sign(part), alpha=weight)
        growth = sign.mul_(whole).div_(agreeing.clamp_(min=min(weights) / 2))
        for part in parts:
            part.mul_(growth)


def _elected(parts: list[Tensor], weights: Sequence[float], divide_by: Divisor, zero_is_positive: bool) -> None:
    """Sign election and disjoint sum or mean of one slice, into ``parts[0]``.

    Branch-free: entry · sign is above zero where both agree, and clamping at zero drops the others. (On a CPU a
    product with a Boolean mask takes 7×, ``torch.where`` 40× as long as a product.)
    """
    import torch

    total = parts[0] + parts[1] if len(parts) > 1 else parts[0].clone()
    for part in parts[2:]:
        total.add_(part)
    sign = torch.copysign(torch.ones((), dtype=total.dtype), total) if zero_is_positive else torch.sign(total)
    divisor = total.zero_()
    for number, (part, weight) in enumerate(zip(parts, weights, strict=True)):
        part.mul_(sign).clamp_(min=0)  # zeros never agree
        if divide_by != "none":
            divisor.add_(torch.sign(part), alpha=1.0 if divide_by == "count" else weight)
        if number:
            parts[0].add_(part)
    if divide_by == "count":
        parts[0].div_(divisor.clamp_(min=1))
    elif divide_by == "weights":
        # A slow masked fill only where weights of both signs can cancel.
        safe = divisor.clamp_(min=min(weights) / 2) if min(weights) > 0 else divisor.masked_fill_(divisor == 0, 1.0)
        parts[0].div_(safe)
    parts[0].mul_(sign)
