"""The loss of Quiet-STaR: predict what follows with the thought before it, and think what helps to predict.

Zelikman et al. 2024 (Quiet-STaR, arXiv:2403.09629), sections 4.3 and 4.4 (equations 1 to 3); Williams 1992 for
REINFORCE.

    reward = Σ_k log p_mixed(x_{t+k} | text, thought), k ≤ M
    advantage = max(0, reward − mean over the thoughts of that position)
    loss = − mean log p_mixed + a · mean(− advantage · Σ_i log p(thought_i)) + b · KL(before ‖ now, on the text alone)

What we do differently:
1. A KL term holds the model without thoughts where it was; the paper has none. It keeps ordinary text.
2. Log-probabilities are at the temperature that the thoughts were drawn with (the reference code samples at 1 and
   scores at 3).
3. The policy weight multiplies a mean per thought token, so that it is of the order of 1 (the reference code: 10⁶).
4. The reward is a property of the thought: the model's success at the task does not scale the loss of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agent_forge.phases.quietstar.mixing_head import MixingHead, mixed
from agent_forge.phases.quietstar.thought_sampling import ThoughtPass

IGNORED = -100


@dataclass(frozen=True)
class QuietLoss:
    """The parts of a step, scalars; only ``loss`` carries a graph.

    Attributes:
        loss: what is minimised.
        nats: mean of − log p_mixed per token.
        gain: mean of log p_mixed − log p without thoughts per token; above 0 the thoughts help.
        policy: mean policy term.
        divergence: KL(before ‖ now) on the text, nats per token.
        entropy: mean surprise of a sampled thought token, nats: an unbiased estimate of the policy's entropy.
        weight: mean weight that the head gives to thoughts.
    """

    loss: Tensor
    nats: float
    gain: float
    policy: float
    divergence: float
    entropy: float
    weight: float

    def figures(self) -> dict[str, float]:
        """By name, for curves."""
        names = ("nats", "gain", "policy", "divergence", "entropy", "weight")
        return {f"quietstar/{name}": getattr(self, name) for name in names} | {
            "quietstar/quiet_loss": float(self.loss.detach())
        }


def targets(labels: Tensor, documents: Tensor | None, places: Tensor, talk: int) -> Tensor:
    """The M true tokens after each place, [B, K, M]; −100 beyond the text, in another document, or without a label.

    Args:
        labels: [B, T] unshifted, −100 where there is nothing to predict.
        documents: [B, T] or None.
        places: [K].
        talk: M.
    """
    ahead = places[:, None] + torch.arange(1, talk + 1, device=places.device)
    inside = (ahead < labels.shape[1])[None]
    index = ahead.clamp(max=labels.shape[1] - 1)
    found = labels[:, index]
    if documents is not None:
        inside = inside & (documents[:, index] == documents[:, places][..., None])
    return torch.where(inside, found, torch.full_like(found, IGNORED))


def quiet_loss(
    found: ThoughtPass,
    head: MixingHead,
    wanted: Tensor,
    places: Tensor,
    *,
    samples: int,
    policy_weight: float,
    divergence_weight: float,
    before: Tensor | None = None,
    real: Tensor | None = None,
) -> QuietLoss:
    """The loss of one pass.

    Args:
        found: of a batch whose rows come in runs of ``samples`` equal texts with different thoughts.
        head: mixing head.
        wanted: [B, K, M] of `targets`, at ``places`` [K].
        samples: thoughts of each position, ≥ 2 (the baseline is their mean).
        policy_weight, divergence_weight: a and b.
        before: [B, T, V] logits of the frozen model on the text; None = no KL.
        real: bool [B, T], where KL counts; None = everywhere.

    Raises:
        ValueError: fewer than 2 samples, a batch that they do not divide, or nothing to predict.
    """
    rows = wanted.shape[0]
    if samples < 2 or rows % samples:
        raise ValueError(f"{samples} samples of each position: at least 2, dividing the {rows} rows of the batch")
    known = wanted != IGNORED
    if not bool(known.any()):
        raise ValueError("no place has a token to predict after it")
    # 1. predictions without the thought: the same tokens, seen from the text before them
    talk = wanted.shape[2]
    index = (places[:, None] + torch.arange(talk, device=places.device)).clamp(max=found.base_hidden.shape[1] - 1)
    base_logits, base_hidden = found.base_logits[:, index], found.base_hidden[:, index]
    # 2. the mixture
    weight = head(base_hidden, found.talk_hidden)
    likely = _log_likelihood(mixed(base_logits, found.talk_logits, weight), wanted)
    nats = -(likely * known).sum() / known.sum()
    # 3. what was thought better than the other thoughts of the position
    advantage = _advantage((likely.detach() * known).sum(2), samples)
    counted = known.any(2)
    policy = -(advantage * found.log_probs.mean(2) * counted).sum() / counted.sum()
    # 4. the leash
    divergence = nats.new_zeros(()) if before is None else _divergence(found.base_logits, before, real)
    loss = nats + policy_weight * policy + divergence_weight * divergence
    with torch.no_grad():
        plain = _log_likelihood(base_logits.float(), wanted)
        gain = float(((likely - plain) * known).sum() / known.sum())
    return QuietLoss(
        loss,
        nats=float(nats.detach()),
        gain=gain,
        policy=float(policy.detach()),
        divergence=float(divergence.detach()),
        entropy=float(-(found.log_probs.detach().mean(2) * counted).sum() / counted.sum()),
        weight=float((weight.detach()[..., 0] * known).sum() / known.sum()),
    )


def _advantage(reward: Tensor, samples: int) -> Tensor:
    """Reward [B, K] less the mean over the thoughts of the same position, at least 0."""
    baseline = reward.unflatten(0, (-1, samples)).mean(1, keepdim=True).expand(-1, samples, -1).flatten(0, 1)
    return (reward - baseline).clamp(min=0)


def _divergence(now: Tensor, before: Tensor, real: Tensor | None) -> Tensor:
    """KL(before ‖ now), nats per token that counts."""
    now, before = now.float().log_softmax(-1), before.float().log_softmax(-1)
    kl = F.kl_div(now, before, reduction="none", log_target=True).sum(-1)
    return kl.mean() if real is None else (kl * real).sum() / real.sum().clamp(min=1)


def _log_likelihood(logits: Tensor, wanted: Tensor) -> Tensor:
    """[B, K, M] log-probabilities of the wanted tokens; those that do not count give whatever token 0 has."""
    return logits.log_softmax(-1).gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
