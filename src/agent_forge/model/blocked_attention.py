"""Causal softmax attention by blocks of queries, for training on a CPU.

Forward and backward of Vaswani et al. 2017 (arXiv:1706.03762, section 3.2.1); the order of the backward pass is that of
Dao et al. 2022 (FlashAttention, arXiv:2205.14135, appendix B.2).

What differs:
1. A block of 64 queries is multiplied with all keys up to its own end in one matrix product, which the CPU's bf16
   units do at full speed, and half of the square is never computed. PyTorch's fused CPU kernel works on tiles that are
   too small for them: this pass is 2.4 times as fast there in bf16 and 1.3 times in float32 (docs/log.md).
2. The probabilities are kept for the backward pass instead of computed again: half of B·H·T² numbers a layer.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64
"""Queries in a block: scores of a block stay in the cache, and the products are large enough."""


def blocked_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of the last T of S tokens over all S, each over itself and what stands before it.

    Args:
        query: [B, H, T, D].
        key: [B, H, S, D] with S ≥ T; query t stands at key S − T + t.
        value: [B, H, S, D].
        mask: additive [B or 1, 1, T, S], 0 or −inf; None = causal. What lies after a query is never read, so a mask
            must hide it. No row may be hidden wholly.

    Returns:
        [B, H, T, D] in the type of ``value``.

    Raises:
        ValueError: fewer keys than queries, or a mask of another shape.
    """
    count, total = query.shape[2], key.shape[2]
    if total < count:
        raise ValueError(f"{count} queries stand at the end of {total} keys, which are too few")
    if mask is not None and mask.shape[2:] != (count, total):
        raise ValueError(f"the mask is {tuple(mask.shape[2:])}, queries × keys are {(count, total)}")
    found: Tensor = _BlockedAttention.apply(query.to(value.dtype), key.to(value.dtype), value, mask)
    return found


class _BlockedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        scale = query.shape[-1] ** -0.5
        q, k, v = (query * scale).flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)
        out, kept = torch.empty_like(q, memory_format=torch.contiguous_format), []
        for start, stop, end in _blocks(q.shape[1], k.shape[1]):
            # 1. scores of a block of queries with everything up to its end
            scores = torch.bmm(q[:, start:stop], k[:, :end].transpose(1, 2))
            if mask is None:
                scores[:, :, end - (stop - start) :] += _triangle(stop - start, scores)
            else:
                scores.unflatten(0, query.shape[:2]).add_(mask[:, :, start:stop, :end])
            # 2. probabilities, and what they gather
            probability = scores.softmax(-1)
            out[:, start:stop] = torch.bmm(probability, v[:, :end])
            kept.append(probability)
        ctx.save_for_backward(q, k, v, *kept)
        ctx.shape, ctx.scale = query.shape[:2], scale
        return out.unflatten(0, query.shape[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *kept = ctx.saved_tensors
        gradient = gradient.flatten(0, 1)
        dq, dk, dv = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, stop, end), probability in zip(_blocks(q.shape[1], k.shape[1]), kept, strict=True):
            above = gradient[:, start:stop]
            dv[:, :end].baddbmm_(probability.transpose(1, 2), above)
            below = torch.bmm(above, v[:, :end].transpose(1, 2))
            scores = torch.ops.aten._softmax_backward_data(below, probability, -1, probability.dtype)
            dq[:, start:stop] = torch.bmm(scores, k[:, :end])
            dk[:, :end].baddbmm_(scores.transpose(1, 2), q[:, start:stop])
        heads = ctx.shape
        return (dq * ctx.scale).unflatten(0, heads), dk.unflatten(0, heads), dv.unflatten(0, heads), None


def _blocks(count: int, total: int) -> list[tuple[int, int, int]]:
    """First and last query of each block, and how many keys it may see."""
    past = total - count
    return [(n, min(n + BLOCK, count), past + min(n + BLOCK, count)) for n in range(0, count, BLOCK)]


def _triangle(size: int, like: Tensor) -> Tensor:
    return torch.full((size, size), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
