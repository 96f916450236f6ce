"""Karcher mean: the point of a sphere whose squared arc lengths to all tensors add up to the least.

Source: Karcher 1977, "Riemannian center of mass and mollifier smoothing"; the fixed-point iteration is
gradient descent with step 1 (Afsari et al. 2013, section 4).

What differs:
1. Directions are averaged on the sphere, norms are averaged apart: result = (Σ wᵢ·‖tᵢ‖) · direction.
2. Unlike iterated SLERP the result does not depend on the order of the parents.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agent_forge.optim.precision import working_precision

if TYPE_CHECKING:
    from torch import Tensor


def karcher(
    tensors: Iterable[Tensor], *, weights: Sequence[float], iterations: int = 10, tolerance: float = 1e-5
) -> Tensor:
    """The weighted Karcher mean of directions, with the weighted mean of norms.

    Args:
        tensors: one per weight, [*shape].
        weights: not negative, one above zero; normalised to 1.
        iterations: at most so many steps.
        tolerance: stop when the step is shorter (radians).

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: a negative weight, or none above zero.
    """
    import torch

    total = float(sum(weights))
    if total <= 0 or min(weights) < 0:
        raise ValueError(f"the Karcher mean needs weights of at least 0 and one above it, not {list(weights)}")
    shares = [weight / total for weight in weights]
    flat = [working_precision(tensor) for tensor in tensors]
    shape = flat[0].shape
    norms = [float(torch.linalg.vector_norm(tensor)) for tensor in flat]
    used = [i for i, norm in enumerate(norms) if norm > tolerance]
    if not used:
        return torch.zeros_like(flat[0])
    units = [flat[i].reshape(-1) / norms[i] for i in used]
    alphas = [shares[i] / sum(shares[j] for j in used) for i in used]
    mean = sum((unit * alpha for unit, alpha in zip(units, alphas, strict=True)), torch.zeros_like(units[0]))
    length = float(torch.linalg.vector_norm(mean))
    mean = units[0].clone() if length < tolerance else mean / length
    for _ in range(iterations):
        tangent = torch.zeros_like(mean)
        for unit, alpha in zip(units, alphas, strict=True):
            cosine = max(-1.0, min(1.0, float(torch.dot(mean, unit))))
            angle = math.acos(cosine)
            if angle >= tolerance and math.sin(angle) > 0:
                tangent.add_(unit - cosine * mean, alpha=alpha * angle / math.sin(angle))
        step = float(torch.linalg.vector_norm(tangent))
        if step < tolerance:
            break
        mean = mean * math.cos(step) + tangent * (math.sin(step) / step)
        mean /= torch.linalg.vector_norm(mean)
    scale = sum(share * norm for share, norm in zip(shares, norms, strict=True))
    return (mean * scale).view(shape)
