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
from agent_forge.phases.edge.onnx_weights import SMALLEST_LARGEST, CodedMatrix, Table, rounded_activations

_MIDDLE = 128
"""Added to int8 inputs: kernels multiply unsigned inputs by signed weights several times faster than signed ones."""
_LARGEST_DIGIT = 63


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

    def unpacked(self) -> Tensor:
        """The weights as fp32 [in, outputs of all layers]."""
        return self.matrix.weight()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all layers]."""
        whole, scale = rounded_activations(x)
        shifted = (whole + _MIDDLE).to(torch.uint8)
        shape = (*x.shape[:-1], self.matrix.scale.shape[0])
        inputs = (shifted, self.matrix.codes(), self.zero)
        product = symbolic("MatMulInteger", inputs, dtype=torch.int32, shape=shape)
        return product.float() * self.matrix.scale / scale


def integer_logits(x: Tensor, table: Table) -> Tensor:
    """Logits [1, rows] of features [1, width] from a table of int8 codes, by products of integers.

    A feature is written in three digits of seven bits, x ≈ s·(a + b / 126 + c / 126²) with whole numbers from −63 to
    63: hardly anything is left out that fp32 would have kept, and kernels that add pairs in 16 bits cannot overflow.
    The digits are rows of one product, so the codes are read once; that is a quarter of what the fp32 head reads.

    Args:
        x: features.
        table: in the form "int8".
    """
    finer = 2.0 * _LARGEST_DIGIT
    scale = _LARGEST_DIGIT / x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_LARGEST)
    left = x * scale
    digits = []
    for _ in range(3):
        digits.append(torch.round(left))
        left = (left - digits[-1]) * finer
    inputs = (torch.cat(digits) + (_LARGEST_DIGIT + 1)).to(torch.uint8)
    middle = torch.tensor(_LARGEST_DIGIT + 1, dtype=torch.uint8)
    shape = (len(digits), table.rows.shape[0])
    product = symbolic("MatMulInteger", (inputs, table.rows.T, middle), dtype=torch.int32, shape=shape)
    high, second, third = product.float().split(1)
    logits = (high + (second + third / finer) / finer) * table.scale.T / scale
    if table.has_special:
        values = (logits, table.places.T, x @ table.special.T)
        logits = symbolic("ScatterElements", values, {"axis": 1}, dtype=torch.float32, shape=tuple(logits.shape))
    return logits
