"""Cross-entropy of a large vocabulary whose logits are never kept: head, softmax and gradient in pieces.

Sources: Wijmans et al. 2024, arXiv:2411.09009 (the loss needs no logits in memory); Gemma Team 2024,
arXiv:2408.00118, section 2 (soft cap).

What we do differently:
1. The gradient is computed in the forward pass, while a piece of logits is in cache; backward only scales it. So the
   head runs once, and nothing of size positions × vocabulary outlives its piece.
2. Two buffers of one piece each are reused: on a CPU, faulting fresh pages in costs more than the arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IGNORED = -100


def chunked_cross_entropy(
    hidden: Tensor, head: Tensor, labels: Tensor, *, soft_cap: float = 0.0, piece: int = 512
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean next-token loss of positions.

    Args:
        hidden: [N, d] features; their type is the arithmetic of the head.
        head: [V, d] weight of the head.
        labels: [N] int64 targets, all of them real (no −100).
        soft_cap: logits are c·tanh(logits / c); 0 = as they are.
        piece: positions per piece.

    Returns:
        The mean loss in nats (differentiable), the loss of each position [N] float32, and whether the largest
        logit is the label [N] bool; the last two carry no gradient.

    Raises:
        ValueError: no positions.
    """
    if labels.numel() == 0:
        raise ValueError("cross-entropy of no positions: every label of the batch is ignored")
    found: tuple[Tensor, Tensor, Tensor] = _ChunkedCrossEntropy.apply(hidden, head, labels, soft_cap, piece)
    return found


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, soft_cap: float, piece: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, vocabulary = hidden.shape[0], head.shape[0]
        weight = head.detach().to(hidden.dtype)
        logits = hidden.new_empty(min(piece, count), vocabulary)
        shares = torch.empty_like(logits)
        nats = torch.empty(count, dtype=torch.float32, device=hidden.device)
        correct = torch.empty(count, dtype=torch.bool, device=hidden.device)
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        rows = torch.arange(len(logits), device=hidden.device)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, count, piece):
                x, target = hidden[start : start + piece], labels[start : start + piece, None]
                z, p = logits[: len(x)], shares[: len(x)]
                # 1. Logits and their softmax, each in its buffer.
                torch.mm(x, weight.T, out=z)
                if soft_cap:
                    z.div_(soft_cap).tanh_().mul_(soft_cap)
                torch._softmax(z, -1, False, out=p)
                # 2. Loss and correctness of each position.
                chosen = p.gather(1, target)
                nats[start : start + piece] = -chosen.float().clamp(min=1e-30).log_().squeeze(1)
                correct[start : start + piece] = (z.gather(1, target) >= z.amax(1, keepdim=True)).squeeze(1)
                # 3. Its gradient: softmax minus one at the target, through the cap (scatter_ copies the piece twice).
                p.index_put_((rows[: len(x)], target.squeeze(1)), chosen.squeeze(1) - 1)
                if soft_cap:
                    p.mul_(z.div_(soft_cap).square_().neg_().add_(1))
                torch.mm(p, weight, out=d_hidden[start : start + piece])
                d_head.add_(p.T @ x)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.count = count
        ctx.mark_non_differentiable(nats, correct)
        return nats.mean(), nats, correct

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        d_hidden, d_head = ctx.saved_tensors
        scale = gradient / ctx.count
        return d_hidden * scale.to(d_hidden.dtype), d_head * scale, None, None, None
