"""DELLA and breadcrumbs: two more ways to thin a task vector, for the switchboard in `task_vectors`.

Sources: Deep et al. 2024, "DELLA-Merging", arXiv:2406.11617, section 3.1 (keep the larger entries of a row
with a higher probability); Davari and Belilovsky 2023, "Model Breadcrumbs", arXiv:2312.06795, section 3
(drop the largest entries as outliers, then the smallest).

What differs:
1. DELLA's ``rescale="keep"`` divides each entry by its own probability (the paper); ``"l1"`` restores the
   norm of the tensor (mergekit).
2. Breadcrumbs counts from both ends, so removing zero outliers is allowed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent_forge.phases.evomerge.dare import Rescale

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def drop_by_rank(
    delta: Tensor, density: float, *, epsilon: float, generator: torch.Generator, rescale: Rescale = "keep"
) -> Tensor:
    """Keeps entry j of a row with probability density − ε + 2ε · rank_j (0 smallest, 1 largest).

    Args:
        delta: [..., columns]; one-dimensional tensors are one row.
        density: mean kept fraction.
        epsilon: half of the range of probabilities.
        generator: for the mask.
        rescale: see the header.

    Returns:
        The same shape.

    Raises:
        ValueError: density ± epsilon leaves 0–1.
    """
    import torch

    if density >= 1:
        return delta
    if density <= 0:
        return delta.zero_()
    if density - epsilon <= 0 or density + epsilon >= 1:
        raise ValueError(f"density {density} ± epsilon {epsilon} leaves the open interval (0, 1)")
    rows = delta.reshape(1, -1) if delta.dim() < 2 else delta.flatten(1)
    ranks = rows.abs().argsort(dim=1).argsort(dim=1).to(rows.dtype) / max(rows.shape[1] - 1, 1)
    keep = density - epsilon + 2 * epsilon * ranks
    mask = torch.rand(rows.shape, generator=generator, dtype=rows.dtype) < keep
    kept = rows * mask
    if rescale == "keep":
        kept = kept / keep
    elif rescale == "l1" and float(kept.abs().sum()) > 1e-7:
        kept = kept * (float(rows.abs().sum()) / float(kept.abs().sum()))
    return kept.view_as(delta)


def drop_both_ends(delta: Tensor, density: float, *, gamma: float) -> Tensor:
    """Drops the largest ``gamma`` of all entries, then the smallest until ``density`` of them are left.

    Raises:
        ValueError: density or gamma outside 0–1.
    """
    import torch

    if not (0 <= density <= 1 and 0 <= gamma <= 1):
        raise ValueError(f"density {density} and gamma {gamma} must lie in 0–1")
    if density == 1:
        return delta
    count = delta.numel()
    keep = int(density * count)
    lowest = max(0, count - keep - int(gamma * count))
    order = delta.abs().reshape(-1).argsort()
    mask = torch.zeros(count, dtype=torch.bool)
    mask[order[lowest : lowest + keep]] = True
    return delta.mul_(mask.view(delta.shape))
