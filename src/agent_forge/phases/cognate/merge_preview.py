"""Merge preview: would the branches merge? SLERP of two of them must not be worse than their mean (premortem G1).

It is the SLERP of phase 2, tensor by tensor, so that the preview says what phase 2 will find.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from agent_forge.optim.slerp import slerp


def slerp_states(first: Mapping[str, Tensor], second: Mapping[str, Tensor], weight: float = 0.5) -> dict[str, Tensor]:
    """`slerp` of every tensor of two states of one architecture.

    Raises:
        ValueError: a tensor of one state has another shape in the other.
    """
    return {name: slerp(tensor, second[name], weight).to(tensor.dtype) for name, tensor in first.items()}
