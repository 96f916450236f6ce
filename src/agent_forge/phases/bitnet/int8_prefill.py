"""int8 × ternary matrix products: what a processor can multiply fast, with no compiler at run time.

Activations are int8 per token and weights are {−1, 0, 1}, so a product is exact in int32 and is scaled once at the
end: y = (x̂ · Ŵᵀ) · s_x · γ. ``torch._int_mm`` reaches the machine's int8 instructions (VNNI, AMX) through oneDNN;
where it refuses a shape or a device the same integers are multiplied in fp32, which is exact up to 2²⁴, that is for
in_features ≤ 132,104.

Differences from the fake-quantized forward in training: none but the order of floating-point additions.
"""

from __future__ import annotations

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
        tokens = input.reshape(-1, self.in_features)
        integers, scale = quantize_tokens(tokens)
        if len(self.codes) == 1:
            out = integer_product(integers, self.codes[0]).float().mul_(self.scale)
        else:
            out = torch.zeros(tokens.shape[0], self.out_features, device=tokens.device)
            for part, codes, gamma in zip(integers.chunk(len(self.codes), -1), self.codes, self.scale, strict=True):
                out.addcmul_(integer_product(part.contiguous(), codes).float(), gamma)
        out.mul_(scale)
        if self.bias is not None:
            out.add_(self.bias)
        return out.to(input.dtype).view(*input.shape[:-1], self.out_features)


def quantize_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Absmax per token: [n, in] → int8 [n, in] and float32 scale [n, 1], with tokens ≈ int8 · scale."""
    tokens = tokens.float()
    inverse = 127.0 / tokens.abs().amax(-1, keepdim=True).clamp_(min=1e-5)
    return (tokens * inverse).round_().clamp_(-128, 127).to(torch.int8), inverse.reciprocal_()


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
