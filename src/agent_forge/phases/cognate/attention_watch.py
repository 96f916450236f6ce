"""What fused attention hides, looked at now and then: logits, entropies, sinks, the rotary key.

Sources: Kimi Team 2025, arXiv:2507.20534 (QK-clip); Xiao et al. 2023, arXiv:2309.17453 (attention sinks);
Zhai et al. 2023, arXiv:2303.06296 (entropy collapse).

What we do differently: queries and keys are recorded from the projections during an ordinary forward pass, so that
the model needs no second code path, and only the first rows of the batch are measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.attention import Attention
from agent_forge.optim.qk_clip import clip_query_key, max_logits

SINK_MASS = 0.5
"""Share of all attention mass beyond which a key is a sink (premortem E2)."""


@dataclass
class Recording:
    """Rotated queries [B, H, T, D] and the keys [B, H', T, D] that they meet, one entry per look of an attention.

    A block of the backbone looks once; the shared block of the recursion looks at the same keys in every step.
    """

    attentions: list[Attention] = field(default_factory=list)
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)


@contextmanager
def recording(model: nn.Module, rows: int = 1) -> Iterator[Recording]:
    """Records the first ``rows`` of queries and keys of every attention while the block runs."""
    found = Recording()
    met: dict[Attention, Tensor] = {}
    attentions = [module for module in model.modules() if isinstance(module, Attention)]

    def watch(attention: Attention) -> None:
        plain_queries, plain_keys = attention.queries, attention.keys

        def queries(*args: Any) -> Tensor:
            result = plain_queries(*args)
            found.attentions.append(attention)
            found.queries.append(result[:rows])
            found.keys.append(met[attention])  # keys come first: they go into the cache before anybody looks
            return result

        def keys(*args: Any) -> Tensor:
            result = plain_keys(*args)
            met[attention] = result[:rows]
            return result

        attention.queries, attention.keys = queries, keys  # type: ignore[method-assign,assignment]

    for attention in attentions:
        watch(attention)
    try:
        yield found
    finally:
        for attention in attentions:
            del attention.queries, attention.keys


def attention_probabilities(query: Tensor, key: Tensor) -> Tensor:
    """Causal attention [B, H, T, T] in float32 of recorded queries and keys; carries gradients."""
    length, head_dim = query.shape[2:]
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query.float() @ key.float().mT / math.sqrt(head_dim)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1)


def attention_entropy(recorded: Recording) -> Tensor:
    """Mean entropy of attention, as a share of the most it could be at each position (0–1); carries gradients."""
    shares = []
    for query, key in zip(recorded.queries, recorded.keys, strict=True):
        probabilities = attention_probabilities(query, key)
        entropy = -(probabilities * probabilities.clamp(min=1e-9).log()).sum(-1)[..., 1:]
        most = torch.arange(2, query.shape[2] + 1, device=query.device).log()
        shares.append((entropy / most).mean())
    return torch.stack(shares).mean()


@torch.no_grad()
def attention_metrics(recorded: Recording) -> dict[str, float]:
    """Figures of the attention layers.

    Returns:
        ``attn/entropy_fraction`` (of the most possible, 0–1), ``attn/sinks`` (keys that take more than half of the
        mass of a head), ``attn/max_logit`` and ``attn/rope_norm`` (mean length of the keys, the smallest of all
        attentions over the largest; near 0 = one of them has shrunk).
    """
    sinks, largest = 0, 0.0
    for query, key in zip(recorded.queries, recorded.keys, strict=True):
        mass = attention_probabilities(query, key)[..., 1:, :].mean(2)
        sinks += int((mass > SINK_MASS).sum())
        largest = max(largest, float(max_logits(query, key).max()))
    norms = torch.stack([key.float().norm(dim=-1).mean() for key in recorded.keys])
    return {
        "attn/entropy_fraction": float(attention_entropy(recorded)),
        "attn/sinks": float(sinks),
        "attn/max_logit": largest,
        "attn/rope_norm": float(norms.min() / norms.max().clamp(min=1e-9)),
    }


@torch.no_grad()
def clip_attention(recorded: Recording, *, threshold: float) -> tuple[int, int]:
    """QK-clip on every recorded attention without QK-norm, once each, by the largest logit of all its looks.

    Returns:
        How many heads were above the threshold, counted in every look, and how many there are in all looks.
    """
    largest: dict[Attention, Tensor] = {}
    above = seen = 0
    for attention, query, key in zip(recorded.attentions, recorded.queries, recorded.keys, strict=True):
        if attention.q_norm is None:
            logits = max_logits(query, key)
            above, seen = above + int((logits > threshold).sum()), seen + logits.numel()
            largest[attention] = torch.maximum(largest.get(attention, logits), logits)
    for attention, logits in largest.items():
        query_weight, key_weight = attention.q_proj.weight, attention.k_proj.weight
        clip_query_key(
            query_weight, key_weight, logits, threshold=threshold,
            num_key_heads=key_weight.shape[0] // attention.head_size,
        )  # fmt: skip
    return above, seen


def query_key_names(model: nn.Module) -> set[str]:
    """Names of the weights that make queries and keys."""
    return {
        f"{name}.{side}.weight"
        for name, module in model.named_modules()
        if isinstance(module, Attention)
        for side in ("q_proj", "k_proj")
    }
