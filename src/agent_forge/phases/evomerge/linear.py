"""Linear merge: the weighted mean of tensors of one shape.

Source: Wortsman et al. 2022, "Model soups", arXiv:2203.05482, section 2 (uniform soup; here with weights).

What differs:
1. Weights may be negative (extrapolation); their sum must not be zero while ``normalize`` is on.
2. The tensors are consumed one by one, so a caller that streams holds one of them at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agent_forge.optim.precision import working_precision

if TYPE_CHECKING:
    from torch import Tensor


def linear(tensors: Iterable[Tensor], *, weights: Sequence[float], normalize: bool = True) -> Tensor:
    """Σ wᵢ·tᵢ, divided by Σ wᵢ when ``normalize`` is on.

    Args:
        tensors: one per weight, equal shapes [*shape].
        weights: any real numbers.
        normalize: divide by the sum of the weights.

    Returns:
        [*shape], float32 (float64 for float64 input).

    Raises:
        ValueError: no tensors, another number of tensors than weights, or weights that sum to zero.
    """
    # 1. Coefficients first, in double precision: one multiplication per element is saved.
    total = float(sum(weights)) if normalize else 1.0
    if abs(total) < 1e-8:
        raise ValueError(f"weights {list(weights)} sum to {total}: a mean needs a sum that is not zero")
    # 2. Accumulate.
    result: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        coefficient = float(weight) / total
        tensor = working_precision(tensor)
        result = tensor * coefficient if result is None else result.add_(tensor, alpha=coefficient)
    if result is None:
        raise ValueError("no tensors were given")
    return result
