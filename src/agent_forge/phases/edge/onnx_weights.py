"""Weights as a graph holds them: small in the file, unpacked inside the graph by standard operators.

A runtime that folds constants does the unpacking once, when it loads the file, and multiplies with plain matrices
from then on. Nothing here changes a value: what a form cannot hold exactly is stored in a wider one.

=========  ===========================================================================================
form       in the file
=========  ===========================================================================================
base-3     five ternary codes a byte (1.6 bits a weight) and one fp32 scale per output
int8       other codes (4-bit layers, embeddings of eight bits), one fp32 scale per output or row
fp16       tables that fp16 holds exactly
fp32       everything else
=========  ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.ops import symbolic

from agent_forge.model.ternary import (
    EIGHT_BITS,
    PER_ROW,
    PER_TENSOR,
    TERNARY,
    TWO_BITS,
    Layout,
    TernaryLinear,
    codes_of,
)

DIGITS = 5
"""Ternary codes in a byte: 3⁵ = 243."""
SMALLEST_LARGEST = 1e-5  # as `fake_quantize_activations`


class CodedMatrix(nn.Module):
    """Several ternary layers with the same input, side by side, as integer codes [in, out] and a scale per output.

    Args:
        layers: frozen layers of three, four or fifteen levels with a scale per tensor or row.

    Raises:
        ValueError: a layer has scales for groups of inputs, which a product of integers cannot follow.
    """

    powers: Tensor
    packed: Tensor
    scale: Tensor

    def __init__(self, layers: Sequence[TernaryLinear]) -> None:
        super().__init__()
        columns, scales = [], []
        for layer in layers:
            codes, scale = integer_codes(layer)
            columns.append(codes.T)
            scales.append(scale)
        codes = torch.cat(columns, 1).contiguous()
        self.rows, self.is_ternary = codes.shape[0], all(layer.layout.levels == TERNARY for layer in layers)
        self.register_buffer("packed", pack_digits(codes) if self.is_ternary else codes)
        self.register_buffer("scale", torch.cat(scales))
        if self.is_ternary:
            self.register_buffer("powers", 3 ** torch.arange(DIGITS, dtype=torch.int32)[:, None, None])

    def codes(self) -> Tensor:
        """Integer codes int8 [in, out]."""
        if not self.is_ternary:
            return self.packed
        count, width = self.packed.shape
        shape = (DIGITS, count, width)
        wide = self.packed.to(torch.int32)[None]
        shifted = symbolic("Div", (wide, self.powers), dtype=torch.int32, shape=shape)
        digits = symbolic("Mod", (shifted, self.powers[1]), dtype=torch.int32, shape=shape)
        return (digits.reshape(DIGITS * count, width)[: self.rows] - 1).to(torch.int8)

    def weight(self) -> Tensor:
        """The fp32 weights [in, out]."""
        return self.codes().float() * self.scale


def integer_codes(layer: TernaryLinear) -> tuple[Tensor, Tensor]:
    """Codes int8 [out, in] and scales [out] with weight = code · scale.

    Raises:
        ValueError: scales for groups of inputs, or more than one group.
    """
    if layer.layout.group_size not in (PER_TENSOR, PER_ROW):
        raise ValueError(f"a layer with scales for groups of {layer.layout.group_size} inputs has no integer form")
    codes, scale = codes_of(layer.weight.detach(), layer.layout)
    scale = scale.reshape(-1)
    if layer.layout.levels == TWO_BITS:
        codes, scale = 2 * codes + 1, scale / 2
    return codes, scale.expand(codes.shape[0]).float().clone()


def pack_digits(codes: Tensor) -> Tensor:
    """Codes {−1, 0, 1} [in, out] as uint8 [⌈in / 5⌉, out]; digit i of a byte is row i·⌈in / 5⌉ further down."""
    count = -(-codes.shape[0] // DIGITS)
    padded = torch.zeros(DIGITS * count, codes.shape[1], dtype=torch.int32)
    padded[: codes.shape[0]] = codes.to(torch.int32) + 1
    powers = 3 ** torch.arange(DIGITS, dtype=torch.int32)
    return (padded.view(DIGITS, count, -1) * powers[:, None, None]).sum(0).to(torch.uint8)


class Table(nn.Module):
    """Rows of an embedding (and the head that is tied to it), in the smallest form that holds them exactly.

    Rows that were protected from rounding (marks of thoughts) are stored beside the others.

    Args:
        weight: [rows, width] fp32.
    """

    rows: Tensor
    scale: Tensor
    special: Tensor
    places: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        found = _eight_bit_rows(weight)
        if found is not None:
            rows, scale, places = found
            self.form = "int8"
            self.register_buffer("scale", scale)
        else:
            rows, places = weight.clone(), torch.empty(0, dtype=torch.long)
            self.form = "fp16" if torch.equal(weight.half().float(), weight) else "fp32"
            rows = rows.half() if self.form == "fp16" else rows
        self.register_buffer("rows", rows)
        self.has_special = places.numel() > 0
        if self.has_special:
            self.register_buffer("special", weight[places].clone())
            self.register_buffer("places", places[:, None])

    def chosen(self, index: Tensor) -> Tensor:
        """Rows [..., width] of ``index`` [...], fp32, without unpacking the others."""
        found = F.embedding(index, self.rows).float()
        if self.form == "int8":
            found = found * F.embedding(index, self.scale)
        if self.has_special:  # their codes are zero
            found = found + (index[..., None] == self.places[:, 0]).float() @ self.special
        return found

    def whole(self) -> Tensor:
        """All rows, fp32."""
        table = self.rows.float()
        if self.form == "int8":
            table = table * self.scale
        if self.has_special:
            table = symbolic(
                "ScatterND", (table, self.places, self.special), dtype=torch.float32, shape=tuple(table.shape)
            )
        return table


def float_logits(x: Tensor, table: Table) -> Tensor:
    """Logits [1, rows] of features [1, width]: an fp32 product with the rows of a table."""
    return F.linear(x, table.whole())


def _eight_bit_rows(weight: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Codes, scales and the places of rows that eight bits do not hold; None where those are more than a tenth."""
    layout = Layout(PER_ROW, EIGHT_BITS)
    codes = torch.zeros(weight.shape, dtype=torch.int8)
    scale = torch.zeros(weight.shape[0], 1)
    places = []
    for row in range(weight.shape[0]):
        try:
            codes[row : row + 1], scale[row : row + 1] = codes_of(weight[row : row + 1], layout)
        except ValueError:
            places.append(row)
            if len(places) > weight.shape[0] // 10:
                return None
    return codes, scale, torch.tensor(places, dtype=torch.long)


def rounded_activations(x: Tensor) -> tuple[Tensor, Tensor]:
    """Whole numbers −127 … 127 (as floats) and the scale that they were made with, token by token.

    The numbers of `fake_quantize_activations`, before it divides by the scale again.
    """
    scale = 127.0 / x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_LARGEST)
    return torch.round(x * scale), scale


class PlainLinear(nn.Module):
    """Linear layers that stay fp32, side by side; inputs are rounded where the trained layers round them.

    Args:
        layers: with the same input; all of them round it, or none.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.register_buffer("weight", torch.cat([layer.weight.detach() for layer in layers]).T.contiguous())
        biases = [layer.bias for layer in layers]
        self.has_bias = any(bias is not None for bias in biases)
        if self.has_bias:
            filled = [
                torch.zeros(layer.out_features) if bias is None else bias.detach()
                for layer, bias in zip(layers, biases, strict=True)
            ]
            self.register_buffer("bias", torch.cat(filled))
        self.rounds = rounds_inputs(layers[0])

    def unpacked(self) -> Tensor:
        """The weights as fp32 [in, outputs of all layers]."""
        return self.weight

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all layers]."""
        if self.rounds:
            whole, scale = rounded_activations(x)
            x = whole / scale
        product = x @ self.weight
        return product + self.bias if self.has_bias else product


def rounds_inputs(layer: nn.Linear) -> bool:
    """Whether ``layer`` rounds its inputs to int8."""
    return isinstance(layer, TernaryLinear) and layer.activation_bits > 0 and layer.blend > 0


class Beside(nn.Module):
    """Products of different kinds with the same input, side by side."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def unpacked(self) -> Tensor:
        """The weights as fp32 [in, outputs of all parts]."""
        return torch.cat([part.unpacked() for part in self.parts], -1)  # type: ignore[operator]

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] → [..., outputs of all parts]."""
        return torch.cat([part(x) for part in self.parts], -1)
