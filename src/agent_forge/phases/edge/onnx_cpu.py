"""Matrix products of the flavour ``cpu``: integers times integers, exactly what the trained layer computes.

A ternary layer rounds its inputs to int8 per token; codes and inputs are then both whole numbers, and their product
is one too. ``MatMulInteger`` (a standard operator) does it in the processor's int8 instructions. What was measured
against it is in docs/phases/edge.md: ``MatMulNBits`` of two and four bits rounds per block of inputs instead of per
token, which is another function, and is slower.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from agent_forge.model.ternary import TernaryLinear
from agent_forge.phases.edge.onnx_weights import CodedMatrix, rounded_activations

_MIDDLE = 128
"""Added to int8 inputs: kernels multiply unsigned inputs by signed weights several times faster than signed ones."""


class IntegerLinear(nn.Module):
    """One or several ternary layers with int8 inputs, side by side.

    Args:
        layers: frozen, with the same input, ``activation_bits`` 8 and no bias.
    """

    zero: Tensor

    def __init__(self, layers: Sequence[TernaryLinear]) -> None:
        super().__init__()
        self.matrix = CodedMatrix(layers)
        self.register_buffer("zero", torch.tensor(_MIDDLE, dtype=torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all layers]."""
        whole, scale = rounded_activations(x)
        shifted = (whole + _MIDDLE).to(torch.uint8)
        shape = (*x.shape[:-1], self.matrix.scale.shape[0])
        inputs = (shifted, self.matrix.codes(), self.zero)
        product = symbolic("MatMulInteger", inputs, dtype=torch.int32, shape=shape)
        return product.float() * self.matrix.scale / scale
