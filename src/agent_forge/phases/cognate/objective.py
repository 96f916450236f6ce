"""The composite objective: next token, sequence coherence, diversity, halting, entropies; each may be switched off.

Sources: van den Oord et al. 2018, arXiv:1807.03748 (InfoNCE); Bardes et al. 2022, arXiv:2105.04906 (variance and
covariance); Jolicoeur-Martineau 2025, arXiv:2510.04871 (deep supervision). Halting: `agent_forge.model.halting`.

What we do differently:
1. Steps before the last are supervised on a sample of positions, so that recursion does not multiply the head.
2. A weight of 0 skips its term altogether.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agent_forge.model.halting import HaltingHead, halting_loss, halting_targets
from agent_forge.phases.cognate.cross_entropy import IGNORED, chunked_cross_entropy


@dataclass(frozen=True)
class Weights:
    """Weights of the terms; 0 = the term is not computed.

    Attributes:
        next_token, coherence, diversity, halting, gate_entropy: of the terms.
        steps: weight of each step of the recursion; the last repeats.
        supervised_fraction: share of the positions on which earlier steps are supervised, 0–1.
        halting_epsilon: nats.
        segment_tokens: tokens that are pooled.
    """

    next_token: float = 1.0
    coherence: float = 0.0
    diversity: float = 0.0
    halting: float = 0.0
    gate_entropy: float = 0.0
    steps: tuple[float, ...] = (0.5, 0.75, 1.0)
    supervised_fraction: float = 0.25
    halting_epsilon: float = 0.05
    segment_tokens: int = 64


def composite_loss(
    steps: Sequence[Tensor],
    halting_logits: Sequence[Tensor],
    head: Tensor,
    labels: Tensor,
    documents: Tensor,
    weights: Weights,
    *,
    gate_entropy: Tensor | None = None,
    soft_cap: float = 0.0,
    halting: HaltingHead | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one batch and its parts.

    Args:
        steps: [B, T, d] features after each step of the recursion, the last one decides.
        halting_logits: [B, T] for each step; empty without ACT.
        head: [V, d].
        labels: [B, T] unshifted, −100 = ignored.
        documents: [B, T] numbers of documents, −1 = padding.
        weights: of the terms.
        gate_entropy: mean entropy of the gate in nats, if there is one.
        soft_cap: of the logits.
        halting: the head that gave the logits, whose calibration is moved; None = no halting targets (yet).
        generator: draws the supervised positions.

    Returns:
        The loss, and its parts by metric name: ``loss/next_token``, ``loss/step_k``, ``accuracy/step_k``, ….

    Raises:
        ValueError: every label is ignored.
    """
    # 1–3. Next token after every step, and halting.
    total, parts = _step_terms(
        steps, halting_logits, head, labels, weights, soft_cap=soft_cap, halting=halting, generator=generator
    )
    last = len(steps) - 1
    # 4. Terms on pooled segments.
    if weights.coherence or weights.diversity:
        value, pooled_parts = _pooled_terms(steps[last], documents, weights)
        total, parts = total + value, parts | pooled_parts
    # 5. The gate's entropy is raised, so it is subtracted.
    if gate_entropy is not None and weights.gate_entropy:
        total = total - weights.gate_entropy * gate_entropy
        parts["gate/entropy"] = gate_entropy.detach()
    return total, parts


def _step_terms(
    steps: Sequence[Tensor],
    halting_logits: Sequence[Tensor],
    head: Tensor,
    labels: Tensor,
    weights: Weights,
    *,
    soft_cap: float,
    halting: HaltingHead | None,
    generator: torch.Generator | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    # 1. Position t predicts the label at t + 1.
    keep = (labels[:, 1:] != IGNORED).flatten().nonzero().squeeze(1)
    targets, last = labels[:, 1:].flatten()[keep], len(steps) - 1

    def loss_of(index: int, positions: Tensor, aims: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = steps[index][:, :-1].reshape(-1, head.shape[1])[positions]
        return chunked_cross_entropy(features, head, aims, soft_cap=soft_cap)

    # 2. The last step on all positions, earlier ones on a sample.
    shares = [_step_weight(weights, index) for index in range(last + 1)]
    final, nats, correct = loss_of(last, keep, targets)
    total = weights.next_token * shares[last] / sum(shares) * final
    parts = {"loss/next_token": final.detach(), f"loss/step_{last}": final.detach()}
    parts[f"accuracy/step_{last}"] = correct.float().mean()
    if last == 0:
        return total, parts
    chosen = _sample(len(keep), weights.supervised_fraction, generator)
    seen = [(nats[chosen], correct[chosen])]
    for index in reversed(range(last)):
        loss, *found = loss_of(index, keep[chosen], targets[chosen])
        seen.insert(0, (found[0], found[1]))
        total = total + weights.next_token * shares[index] / sum(shares) * loss
        parts[f"loss/step_{index}"], parts[f"accuracy/step_{index}"] = loss.detach(), found[1].float().mean()
    # 3. Halting, once it has targets.
    if halting is not None and weights.halting:
        logits = [logit[:, :-1].flatten()[keep[chosen]] for logit in halting_logits]
        outcome = torch.stack([found[0] for found in seen]), torch.stack([found[1] for found in seen])
        aims = halting_targets(*outcome, epsilon=weights.halting_epsilon)
        value = halting_loss(logits, aims, accuracy=halting.step_accuracy)
        halting.record(aims, logits)
        total = total + weights.halting * value
        parts["loss/halting"] = value.detach()
    return total, parts


def _pooled_terms(hidden: Tensor, documents: Tensor, weights: Weights) -> tuple[Tensor, dict[str, Tensor]]:
    """Coherence and diversity, weighted and summed, and each by metric name."""
    pooled, follows = pooled_segments(hidden, documents, weights.segment_tokens)
    total, parts = pooled.sum() * 0.0, {}
    for name, weight in (("coherence", weights.coherence), ("diversity", weights.diversity)):
        if weight:
            value = coherence_loss(pooled, follows) if name == "coherence" else diversity_loss(pooled)
            total = total + weight * value
            parts[f"loss/{name}"] = value.detach()
    return total, parts


def pooled_segments(hidden: Tensor, documents: Tensor, segment_tokens: int) -> tuple[Tensor, Tensor]:
    """Means over segments that lie in one document.

    Args:
        hidden: [B, T, d].
        documents: [B, T], −1 = padding.
        segment_tokens: tokens of a segment; what is left at the end of a row is dropped.

    Returns:
        [S, d] float32 means, and [S] int64: the index of the segment that follows in the same document, or −1.
    """
    count = hidden.shape[1] // segment_tokens
    used = count * segment_tokens
    numbers = documents[:, :used].view(len(documents), count, segment_tokens)
    whole = (numbers == numbers[..., :1]).all(-1) & (numbers[..., 0] >= 0)
    means = hidden[:, :used].reshape(len(hidden), count, segment_tokens, -1).float().mean(2)
    index = torch.full(whole.shape, -1, dtype=torch.long, device=hidden.device)
    index[whole] = torch.arange(int(whole.sum()), device=hidden.device)
    follows = torch.full_like(index, -1)
    same = whole[:, 1:] & whole[:, :-1] & (numbers[:, 1:, 0] == numbers[:, :-1, 0])
    follows[:, :-1] = torch.where(same, index[:, 1:], -1)
    return means[whole], follows[whole]


def coherence_loss(pooled: Tensor, follows: Tensor, *, temperature: float = 0.1) -> Tensor:
    """InfoNCE: a segment should know the one that follows it among all others of the batch.

    Args:
        pooled: [S, d].
        follows: [S] index of the following segment, −1 = none.
        temperature: of the cosine similarities.

    Returns:
        The mean in nats; 0 when fewer than two segments have a follower.
    """
    anchors = (follows >= 0).nonzero().squeeze(1)
    if len(anchors) < 2:
        return pooled.sum() * 0.0
    units = F.normalize(pooled, dim=-1)
    scores = units[anchors] @ units.T / temperature
    scores = scores.scatter(1, anchors[:, None], float("-inf"))
    return F.cross_entropy(scores, follows[anchors])


def diversity_loss(pooled: Tensor, *, target: float = 1.0) -> Tensor:
    """Variance–covariance penalty: every feature varies over segments, and no two vary together.

    Args:
        pooled: [S, d].
        target: standard deviation below which a feature is penalised.

    Returns:
        Hinge on the deviations plus the mean square of the correlations off the diagonal; 0 for fewer than two.
    """
    if pooled.shape[0] < 2:
        return pooled.sum() * 0.0
    centred = pooled - pooled.mean(0)
    deviation = (centred.square().sum(0) / (pooled.shape[0] - 1) + 1e-4).sqrt()
    scaled = centred / deviation
    correlation = scaled.T @ scaled / (pooled.shape[0] - 1)
    off = correlation - torch.diag_embed(correlation.diagonal())
    return F.relu(target - deviation).mean() + off.square().mean()


def _step_weight(weights: Weights, index: int) -> float:
    return weights.steps[min(index, len(weights.steps) - 1)]


def _sample(count: int, fraction: float, generator: torch.Generator | None) -> Tensor:
    """Indices of a random share of the positions, at least one, in order."""
    wanted = max(1, round(fraction * count))
    if wanted >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=generator)[:wanted].sort().values
