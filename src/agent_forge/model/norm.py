"""RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467) that is fast on a CPU.

What differs from ``torch.nn.RMSNorm``: the gradient runs through torch's fused layer-norm kernel and a
rank-one correction. Layer norm subtracts the mean of the incoming gradient, RMSNorm does not, so that
mean is added back. Several times faster than the composite kernel on a CPU, and the same numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ScaleByRootMeanSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.float()
        # vector_norm reads x once; pow(2).mean() would write a copy of its size
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        inverse = (norm.square_() / x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (wide * inverse).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        width = x.shape[-1]
        gradient = gradient.contiguous().float()
        # layer norm's kernel with mean 0 gives rms norm's gradient less the mean of gradient·weight
        dx, dweight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x.float().contiguous(), [width], torch.zeros_like(inverse), inverse, weight, None,
            [True, True, False],
        )  # fmt: skip
        mean = (gradient @ weight.float()).unsqueeze(-1).mul_(inverse).div_(width)
        return dx.add_(mean).to(x.dtype), dweight, None, None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which matrix products of ``x`` run: autocast's where it is on."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


class RMSNorm(nn.Module):
    """x / √(mean(x²) + eps) · gain over the last axis, in fp32, given in autocast's dtype.

    Args:
        size: channels.
        eps: added to the mean square.
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalises ``x`` [..., size]; the shape stays."""
        if torch.is_grad_enabled() and x.device.type == "cpu" and self.weight.dtype == torch.float32:
            return _ScaleByRootMeanSquare.apply(x, self.weight, self.eps, compute_dtype(x))
        wide = x.float()
        inverse = (torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square() / x.shape[-1] + self.eps).rsqrt()
        return (wide * inverse * self.weight).to(compute_dtype(x))

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"{self.weight.shape[0]}, eps={self.eps}"
