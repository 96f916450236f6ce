"""DARE: drop task-vector entries at random, rescale what is left.

Source: Yu et al. 2023, "Language models are super Mario", arXiv:2311.03099, section 3.1.

What differs:
1. ``rescale="keep"`` is the paper's estimator (divide by the probability of being kept, 1 − p: the expected
   delta is unchanged); ``rescale="l1"`` is mergekit's (restore the L1 norm of the tensor); ``"none"``.
2. The mask compares 16 random bits per entry, four entries per draw of 64 bits: 9× faster than a Bernoulli
   draw per entry. The probability is therefore a multiple of 2⁻¹⁶, and the division uses exactly that one.
3. An explicit generator; callers seed it by (seed, tensor name, parent), so order and sharding do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from agent_forge.phases.evomerge.task_vectors import Divisor, merge_task_vectors

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Rescale = Literal["keep", "l1", "none"]
RESOLUTION = 1 << 16


def dare(
    trunk: Tensor,
    tensors: Iterable[Tensor],
    *,
    weights: Sequence[float],
    densities: Sequence[float],
    generator: Callable[[int], torch.Generator],
    rescale: Rescale = "keep",
    elect: bool = False,
    divide_by: Divisor = "none",
    zero_is_positive: bool = False,
    strength: float = 1.0,
) -> Tensor:
    """One tensor of a DARE merge: drop first, then add (``elect`` off) or TIES' election (``elect`` on).

    Args:
        trunk: [*shape].
        tensors: one per weight, [*shape].
        weights: per parent.
        densities: kept fraction 1 − p per parent.
        generator: parent's number → its generator.
        rescale: see the header.
        elect: elect signs as TIES does.
        divide_by: see `merge_task_vectors`.
        zero_is_positive: see `merge_task_vectors`.
        strength: λ.

    Returns:
        [*shape], float32 (float64 for float64 input).
    """
    return merge_task_vectors(
        trunk,
        tensors,
        weights=weights,
        sparsify=lambda delta, parent: drop(delta, densities[parent], generator=generator(parent), rescale=rescale),
        elect=elect,
        divide_by=divide_by,
        zero_is_positive=zero_is_positive,
        strength=strength,
    )


def drop(delta: Tensor, density: float, *, generator: torch.Generator, rescale: Rescale = "keep") -> Tensor:
    """Keeps each entry with probability ``density``, in place.

    Raises:
        ValueError: density outside 0–1.
    """
    if not 0 <= density <= 1:
        raise ValueError(f"density {density} is outside 0–1")
    level = round(density * RESOLUTION)
    if level == RESOLUTION:
        return delta
    if level == 0:
        return delta.zero_()
    before = float(delta.abs().sum()) if rescale == "l1" else 0.0
    mask = random_mask(delta.numel(), level, generator=generator).view(delta.shape)
    delta.mul_(mask.to(delta.device, delta.dtype))  # a product with a Boolean mask would take twice as long
    if rescale == "keep":
        return delta.mul_(RESOLUTION / level)
    if rescale == "l1":
        after = float(delta.abs().sum())
        if before > 1e-7 and after > 1e-7:
            delta.mul_(before / after)
    return delta


def random_mask(count: int, level: int, *, generator: torch.Generator) -> Tensor:
    """[count] booleans, each true with probability level / 2¹⁶ (1 ≤ level < 2¹⁶)."""
    import torch

    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    return words.view(torch.int16)[:count] < level - RESOLUTION // 2
