"""Experts in a graph: the side paths of `agent_forge.model.expert_vectors`, driven by one more input.

The input ``experts`` [1, N] holds Σ α_k (z_k − 1) for every adapted matrix, one after the other. A product then gives
W x + U_r diag(σ_r ⊙ e) V_rᵀ x, where x is what the layer reads before it rounds anything. Zeros add nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from agent_forge.model.expert_vectors import Factors

CHANGE = "change"


class Adapted(nn.Module):
    """A product of layers with the same input, and beside it what experts add.

    Only the smaller side of each matrix's directions is stored: since W = U diag(σ) Vᵀ, the other one with its σ is
    W V, or Wᵀ U. A runtime that folds constants works that out once, when it loads the file.

    Args:
        product: of the layers, side by side; it knows its weights (``unpacked``).
        names: of their weights.
        factors: their leading singular directions.
    """

    change: Tensor

    def __init__(self, product: nn.Module, names: Sequence[str], factors: Sequence[Factors]) -> None:
        super().__init__()
        self.product, self.names = product, tuple(names)
        self.ranks = [len(each.singular) for each in factors]
        self.widths = [each.left.shape[0] for each in factors]
        self.reads = [each.right.shape[1] <= width for each, width in zip(factors, self.widths, strict=True)]
        for n, each in enumerate(factors):
            side = each.right.T if self.reads[n] else each.left
            # a direction whose σ was lost in rounding counts for nothing
            self.register_buffer(f"side{n}", (side * (each.singular > 0)).contiguous())
        # stands for a part of the input `experts`: `ExpertStep` puts it in its place
        self.register_buffer(CHANGE, torch.zeros(sum(self.ranks)))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all layers]."""
        rights, lefts = [], []
        for n, weight in enumerate(self.product.unpacked().split(self.widths, -1)):  # type: ignore[operator]
            side = self.get_buffer(f"side{n}")
            rights.append(side if self.reads[n] else weight @ side)
            lefts.append(side.T @ weight if self.reads[n] else side.T)
        inner = ((x @ torch.cat(rights, -1)) * self.change).split(self.ranks, -1)
        return self.product(x) + torch.cat([part @ left for part, left in zip(inner, lefts, strict=True)], -1)


class ExpertStep(nn.Module):
    """A step graph with the input ``experts``.

    Args:
        step: with `Adapted` products.
    """

    def __init__(self, step: nn.Module) -> None:
        super().__init__()
        self.step = step
        adapted = [(path, module) for path, module in step.named_modules() if isinstance(module, Adapted)]
        self.places = {f"{path}.{CHANGE}": sum(module.ranks) for path, module in adapted}
        self.matrices = [pair for _, module in adapted for pair in zip(module.names, module.ranks, strict=True)]
        """Name and rank of every adapted matrix, in the order of the input."""

    @property
    def width(self) -> int:
        """N, numbers in the input."""
        return sum(self.places.values())

    def forward(self, input_ids: Tensor, experts: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """As the step, with experts [1, N]."""
        # cloned: a loop takes no tensors that share memory
        parts = [part.clone() for part in experts[0].split(list(self.places.values()))]
        found: tuple[Tensor, ...] = functional_call(
            self.step, dict(zip(self.places, parts, strict=True)), (input_ids, *past)
        )
        return found
