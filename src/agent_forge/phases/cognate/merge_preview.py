"""Merge preview: would the branches merge? SLERP of two of them must not be worse than their mean (premortem G1).

Source: Shoemake 1985 (spherical interpolation), per tensor as model merging uses it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def slerp(first: Tensor, second: Tensor, weight: float = 0.5) -> Tensor:
    """Spherical interpolation of two tensors seen as vectors, in float32.

    Args:
        first: any shape.
        second: the same shape.
        weight: 0 gives the first, 1 the second.

    Returns:
        The interpolation, in the type of ``first``; the straight line where the two are nearly parallel.

    Raises:
        ValueError: shapes differ.
    """
    if first.shape != second.shape:
        raise ValueError(f"cannot interpolate {tuple(first.shape)} with {tuple(second.shape)}")
    a, b = first.float(), second.float()
    cosine = float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-12))
    if abs(cosine) > 0.9995:
        return torch.lerp(a, b, weight).to(first.dtype)
    angle = torch.arccos(torch.tensor(max(-1.0, min(1.0, cosine))))
    parts = torch.sin((1 - weight) * angle) * a + torch.sin(weight * angle) * b
    return (parts / torch.sin(angle)).to(first.dtype)


def slerp_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor], weight: float = 0.5) -> dict[str, Tensor]:
    """`slerp` of every tensor of two states of one architecture."""
    return {name: slerp(tensor, second[name], weight) for name, tensor in first.items()}
