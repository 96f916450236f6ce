"""The head that decides how much a thought may change a prediction.

Zelikman et al. 2024 (Quiet-STaR, arXiv:2403.09629), section 4.3.

What we do differently:
1. Logits are mixed, as in the paper; the reference code mixes what the head reads. For a linear head without a cap the
   two are the same.
2. The last layer starts at zero, so that training starts exactly at the model without thoughts. The weight is not
   squashed: at zero a squashing function would either not be zero or have no slope.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MixingHead(nn.Module):
    """A three-layer network on the features with and without a thought.

    Args:
        size: width of the features.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Linear(2 * size, size), nn.ReLU(), nn.Linear(size, size), nn.ReLU(), nn.Linear(size, 1)
        )
        last = self.inner[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    @classmethod
    def seeded(cls, size: int, generator: torch.Generator) -> MixingHead:
        """A head whose first layers are drawn from ``generator`` (normal, 1 / √inputs)."""
        head = cls(size)
        with torch.no_grad():
            for layer in list(head.inner)[:-1]:
                if isinstance(layer, nn.Linear):
                    layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * layer.in_features**-0.5)
                    layer.bias.zero_()
        return head

    def forward(self, without: Tensor, with_thought: Tensor) -> Tensor:
        """Weight [..., 1] of the thought from features [..., size] each."""
        weight: Tensor = self.inner(torch.cat([without, with_thought], -1).float())
        return weight


def mixed(without: Tensor, with_thought: Tensor, weight: Tensor) -> Tensor:
    """Logits [..., V] of the mixture: ``without`` where the weight is 0, ``with_thought`` where it is 1."""
    return without.float() + weight * (with_thought.float() - without.float())
