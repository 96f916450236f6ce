"""QK-clip: keeps attention logits below a bound by shrinking the query and key weights of the heads at fault.

Source: Kimi Team 2025 (Kimi K2), arXiv:2507.20534, section 2.1, algorithm 1.

What we do differently:
1. Where several query heads read one key head, only the query side is scaled, by the whole factor: the shared key
   would otherwise be shrunk for heads that did nothing wrong (premortem E1).
2. Fused attention hides its logits, so `logit_bound` gives an upper bound from the norms of queries and keys,
   and `max_logits` the exact value, to be called every N steps.
3. With QK-norm the logits are bounded by the gains and there is nothing to clip: do not call it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def clip_query_key(
    query_weight: Tensor, key_weight: Tensor, logits: Tensor, *, threshold: float, num_key_heads: int | None = None
) -> int:
    """Scales W_Q and W_K of each head whose largest logit exceeds the threshold, in place.

    γ = min(1, τ / S_max). One key head per query head: both by √γ. Shared key heads: the query side by γ.

    Args:
        query_weight: [heads · head_dim, d].
        key_weight: [key heads · head_dim, d].
        logits: [heads], the largest logit of each head in this step.
        threshold: τ, in logits (30).
        num_key_heads: key heads; None = as many as query heads.

    Returns:
        The number of heads that were clipped.

    Raises:
        ValueError: heads that do not divide the rows, or τ ≤ 0.
    """
    heads = logits.shape[0]
    key_heads = heads if num_key_heads is None else num_key_heads
    if threshold <= 0:
        raise ValueError(f"threshold must be positive, got {threshold}")
    if query_weight.shape[0] % heads or key_weight.shape[0] % key_heads or heads % key_heads:
        raise ValueError(
            f"{heads} query heads and {key_heads} key heads do not divide {query_weight.shape[0]} and "
            f"{key_weight.shape[0]} rows"
        )
    # 1. γ per head; a logit that is not a number says nothing about the weights, so it clips nothing.
    gamma = torch.where(logits > threshold, threshold / logits.clamp(min=1e-12), torch.ones_like(logits))
    gamma = gamma.to(query_weight)
    clipped = int((gamma < 1).sum())
    if clipped == 0:
        return 0
    # 2. Both sides share the factor, unless the key serves several query heads.
    shared = key_heads != heads
    query_weight.view(heads, -1, query_weight.shape[1]).mul_((gamma if shared else gamma.sqrt())[:, None, None])
    if not shared:
        key_weight.view(heads, -1, key_weight.shape[1]).mul_(gamma.sqrt()[:, None, None])
    return clipped


def max_logits(query: Tensor, key: Tensor, *, scale: float | None = None, causal: bool = True) -> Tensor:
    """The largest attention logit of each head: exact, and quadratic in the length.

    Args:
        query: [batch, heads, length, head_dim], after rotation.
        key: [batch, key heads, length, head_dim], after rotation.
        scale: of the logits; None = 1/√head_dim.
        causal: only keys at or before the query count.

    Returns:
        [heads].
    """
    heads, length, head_dim = query.shape[1:]
    key = key.repeat_interleave(heads // key.shape[1], dim=1)
    scores = query.float() @ key.float().mT * (1 / math.sqrt(head_dim) if scale is None else scale)
    if causal:
        later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        scores = scores.masked_fill(later, -math.inf)
    return scores.amax(dim=(0, 2, 3))


def logit_bound(query: Tensor, key: Tensor, *, scale: float | None = None) -> Tensor:
    """max‖q‖ · max‖k‖ · scale per head [heads]: never below `max_logits`, linear in the length."""
    heads, head_dim = query.shape[1], query.shape[3]
    q = query.float().norm(dim=-1).amax(dim=(0, 2))
    k = key.float().norm(dim=-1).amax(dim=(0, 2)).repeat_interleave(heads // key.shape[1])
    bound: Tensor = q * k * (1 / math.sqrt(head_dim) if scale is None else scale)
    return bound
