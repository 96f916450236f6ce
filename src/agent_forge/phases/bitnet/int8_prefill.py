"""int8 × ternary matrix products: what a processor can multiply fast, with no compiler at run time.

Activations are int8 per token and weights are {−1, 0, 1}, so a product is exact in int32 and is scaled once at the
end: y = (x̂ · Ŵᵀ) · s_x · γ. Three ways to the same integers, the first that the machine has:

1. oneDNN's quantized linear product, with the codes laid out once and γ applied on the way out (measured at
   512 × 512 × 1,024: 9 times as fast as fp32; the integers never reach memory).
2. ``torch._int_mm``, which gives the integers themselves.
3. fp32 on the integers, which is exact up to 2²⁴, that is for in_features ≤ 132,104.

Differences from the fake-quantized forward in training: none but the order of floating-point additions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.ternary import TernaryLinear, codes_of


class Int8TernaryLinear(nn.Module):
    """Inference form of a frozen ternary layer: one byte a weight, integer products.

    Args:
        codes: int8 [out, in].
        scale: float32 [out or 1, groups].
        bias: [out] or None.
    """

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        if codes.dtype != torch.int8 or codes.shape[1] % scale.shape[1]:
            raise ValueError(f"codes {codes.dtype} {tuple(codes.shape)} do not fit scales {tuple(scale.shape)}")
        self.out_features, self.in_features = codes.shape
        groups = scale.shape[1]
        # [groups, out, columns] and [groups, out or 1]: one product and one row of scales a group.
        self.register_buffer("codes", codes.view(self.out_features, groups, -1).transpose(0, 1).contiguous())
        self.register_buffer("scale", scale.t().contiguous())
        self.bias = bias
        self._prepared: tuple[Tensor, ...] | None = None

    @classmethod
    def from_ternary(cls, layer: TernaryLinear) -> Int8TernaryLinear:
        """From a frozen layer with ternary weights and int8 activations.

        Raises:
            ValueError: it is not frozen, or has other activations.
        """
        if not layer.frozen or layer.activation_bits != 8:
            raise ValueError(f"a frozen layer with int8 activations is expected, got {layer}")
        codes, scale = codes_of(layer.weight.detach(), layer.layout)
        return cls(codes, scale, None if layer.bias is None else layer.bias.detach())

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out] in the type of ``input``."""
        integers, scale = quantize_tokens(input.reshape(-1, self.in_features))
        if len(self.codes) == 1:
            out = self._whole_rows(integers)
        else:
            out = torch.zeros(len(integers), self.out_features, device=integers.device)
            for part, codes, gamma in zip(integers.chunk(len(self.codes), -1), self.codes, self.scale, strict=True):
                out.addcmul_(integer_product(part.contiguous(), codes).float(), gamma)
        out.mul_(scale)
        if self.bias is not None:
            out.add_(self.bias)
        return out.to(input.dtype).view(*input.shape[:-1], self.out_features)

    def _whole_rows(self, integers: Tensor) -> Tensor:
        """The product times γ, float32 [n, out], where a row has one scale."""
        if self._prepared is None and integers.device.type == "cpu":
            self._prepared = _prepare(self.codes[0], self.scale[0])
        if self._prepared:
            weight, gamma, zeros = self._prepared
            product: Tensor = torch.ops.onednn.qlinear_pointwise(
                integers, 1.0, 0, weight, gamma, zeros, None, 1.0, 0, torch.float32, "none", [], ""
            )
            return product
        return integer_product(integers, self.codes[0]).float().mul_(self.scale)

    def __getstate__(self) -> dict[str, Any]:
        """Without the prepared weight, which oneDNN can neither copy nor save."""
        return {**self.__dict__, "_prepared": None}


def _prepare(codes: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    """Codes in oneDNN's own order, γ by row and zero points; empty where this build of torch has no such product."""
    try:
        weight = torch.ops.onednn.qlinear_prepack(codes, None)
    except (AttributeError, RuntimeError):
        return ()
    return weight, scale.expand(len(codes)).contiguous(), torch.zeros(len(codes), dtype=torch.int32)


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Absmax per token: [n, in] → int8 [n, in] and float32 scale [n, 1], with tokens ≈ int8 · scale."""
    tokens = tokens.float()
    # Two passes without a temporary beat |x| written out. Nothing has to be clipped: the largest value becomes 127.
    largest = torch.maximum(tokens.amax(-1, keepdim=True), tokens.amin(-1, keepdim=True).neg_())
    inverse = 127.0 / largest.clamp_(min=1e-5)
    return (tokens * inverse).round_().to(torch.int8), inverse.reciprocal_()


def integer_product(left: Tensor, right: Tensor) -> Tensor:
    """int8 [n, in] × int8 [out, in]ᵀ → integers [n, out], exact; int32, or float32 where integers cannot be used."""
    try:
        return torch._int_mm(left, right.t())
    except RuntimeError:
        return left.float() @ right.float().t()


def use_int8(model: nn.Module) -> nn.Module:
    """Replaces every frozen ternary layer that has ternary codes by its int8 form, in place; returns ``model``."""
    made: dict[int, Int8TernaryLinear] = {}
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, TernaryLinear) and module.frozen and module.layout.levels == 3:
            if id(module) not in made:
                made[id(module)] = Int8TernaryLinear.from_ternary(module)
            model.set_submodule(path, made[id(module)])
    return model
