"""Spherical linear interpolation of weights.

Source: Shoemake 1985, "Animating rotation with quaternion curves", section 3.3, applied to flattened tensors.

What differs:
1. The angle comes from normalised copies, the coefficients are applied to the originals (norms are kept).
2. |cos| > ``parallel_cosine``, or a norm near zero: linear interpolation. Anti-parallel tensors pass
   through zero on that way; an `AntiParallelWarning` says so.
3. One-dimensional tensors (norm gains, biases) are interpolated linearly unless ``vectors="slerp"``: the
   direction of a gain vector has no meaning of its own. mergekit rotates them too.
4. n tensors: iterated, the i-th one with t = wᵢ / (w₁ + … + wᵢ), so that each of three equal parents
   weighs the same (t = 1/2, then 1/3; a second t of 1/2 would give the last one half of the result).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from agent_forge.optim.precision import working_precision

if TYPE_CHECKING:
    from torch import Tensor


class AntiParallelWarning(UserWarning):
    """Two tensors point in opposite directions: what lies between them is close to zero."""


def slerp(
    a: Tensor,
    b: Tensor,
    t: float,
    *,
    parallel_cosine: float = 0.9995,
    vectors: Literal["lerp", "slerp"] = "lerp",
) -> Tensor:
    """The point at fraction ``t`` of the arc from ``a`` to ``b``.

    Args:
        a: [*shape].
        b: [*shape].
        t: 0 gives ``a``, 1 gives ``b``.
        parallel_cosine: above this |cosine|, interpolate linearly.
        vectors: what to do with one-dimensional tensors.

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: shapes differ.
    """
    import torch

    if a.shape != b.shape:
        raise ValueError(f"cannot interpolate {tuple(a.shape)} with {tuple(b.shape)}")
    a, b = working_precision(a), working_precision(b)
    if a.dim() < 2 and vectors == "lerp":
        return torch.lerp(a, b, t)
    # 1. The cosine of the angle between the directions.
    flat_a, flat_b = a.reshape(-1), b.reshape(-1)
    # in float64, because a float32 sum depends on where in memory the tensor begins: shards would merge otherwise
    norm_a, norm_b = (float(torch.linalg.vector_norm(flat, dtype=torch.float64)) for flat in (flat_a, flat_b))
    if norm_a < 1e-8 or norm_b < 1e-8:
        return torch.lerp(a, b, t)
    cosine = float(torch.mul(flat_a, flat_b).sum(dtype=torch.float64)) / (norm_a * norm_b)
    # 2. Nearly on one line: the arc is not defined, the chord is.
    if abs(cosine) > parallel_cosine:
        if cosine < 0:
            warnings.warn(f"tensors are anti-parallel (cosine {cosine:.6f})", AntiParallelWarning, stacklevel=2)
        return torch.lerp(a, b, t)
    # 3. Coefficients of the arc, applied to the originals.
    angle = math.acos(cosine)
    of_a = math.sin((1 - t) * angle) / math.sin(angle)
    of_b = math.sin(t * angle) / math.sin(angle)
    return torch.mul(a, of_a).add_(b, alpha=of_b)


def iterated_slerp(
    tensors: Iterable[Tensor],
    *,
    weights: Sequence[float],
    parallel_cosine: float = 0.9995,
    vectors: Literal["lerp", "slerp"] = "lerp",
) -> Tensor:
    """`slerp` over any number of tensors, one after the other.

    Args:
        tensors: one per weight, equal shapes [*shape].
        weights: not negative, not all zero. Tensors of weight 0 are skipped.
        parallel_cosine: see `slerp`.
        vectors: see `slerp`.

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: a negative weight, or none above zero.
    """
    if any(weight < 0 for weight in weights) or not any(weight > 0 for weight in weights):
        raise ValueError(f"SLERP needs weights of at least 0 and one above it, not {list(weights)}")
    result: Tensor | None = None
    so_far = 0.0
    for tensor, weight in zip(tensors, weights, strict=True):
        if weight == 0:
            continue
        so_far += float(weight)
        if result is None:
            result = working_precision(tensor)
        else:
            result = slerp(result, tensor, float(weight) / so_far, parallel_cosine=parallel_cosine, vectors=vectors)
    assert result is not None
    return result
