"""Model stock: how far to walk from the trunk towards the mean, told by the angle between the task vectors.

Source: Jang et al. 2024, "Model Stock: all we need is just a few fine-tuned models", arXiv:2403.19522,
section 4, equation 3: t = N·cosθ / (1 + (N − 1)·cosθ).

What differs:
1. cosθ is the mean over all pairs (the paper assumes that they are equal).
2. Where the denominator vanishes (task vectors that cancel) the trunk is returned.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import TYPE_CHECKING

from agent_forge.optim.precision import working_precision

if TYPE_CHECKING:
    from torch import Tensor


def model_stock(trunk: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """t · mean(wᵢ) + (1 − t) · w₀, per tensor.

    Args:
        trunk: [*shape].
        tensors: at least two, [*shape].

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: fewer than two tensors.
    """
    import torch

    trunk = working_precision(trunk)
    deltas = [(working_precision(tensor) - trunk).reshape(-1) for tensor in tensors]
    if len(deltas) < 2:
        raise ValueError(f"model stock needs at least two parents, not {len(deltas)}")
    norms = [float(torch.linalg.vector_norm(delta)) for delta in deltas]
    cosines = [
        max(-1.0, min(1.0, float(torch.dot(deltas[i], deltas[j])) / max(norms[i] * norms[j], 1e-6)))
        for i, j in combinations(range(len(deltas)), 2)
    ]
    cosine, count = sum(cosines) / len(cosines), len(deltas)
    denominator = 1 + (count - 1) * cosine
    ratio = count * cosine / denominator if abs(denominator) >= 1e-6 else 0.0
    mean = deltas[0]
    for delta in deltas[1:]:
        mean.add_(delta)
    return mean.mul_(ratio / count).view(trunk.shape).add_(trunk)
