"""When to stop refining a position: a halting head in the manner of adaptive computation time.

Graves 2016 (arXiv:1603.08983); Jolicoeur-Martineau 2025 (arXiv:2510.04871, section 4.6: one binary
cross-entropy, no second pass). What differs:
1. Per position. The paper's target, that the whole sequence is exactly right, is almost never true of text.
   Here: this step's prediction is right already, or the next step would gain less than ``epsilon`` nats.
2. The target is drawn towards a moving average (0.98) of how often it held at this step, because a single
   token's gain is mostly noise.
3. It really stops at inference; `accuracy_by_threshold` gives the curve that this buys.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CALIBRATION_DECAY = 0.98
CALIBRATION_START = 0.5
INITIAL_BIAS = -5.0


class HaltingHead(nn.Module):
    """Halting logit of a position from its answer and latent. Starts at "go on" everywhere.

    Args:
        size: channels.
        steps: most steps that calibration is recorded for.
    """

    parameter_role = "halting"

    step_accuracy: Tensor
    step_rate: Tensor

    def __init__(self, size: int, steps: int) -> None:
        super().__init__()
        self.projection = nn.Linear(size, 1, bias=True)
        self.projection.starts_as = "zero"  # type: ignore[assignment]
        self.projection.bias_starts_at = INITIAL_BIAS  # type: ignore[assignment]
        # how often the target held at each step, and how often the head said so; see `record`
        self.register_buffer("step_accuracy", torch.full((steps,), CALIBRATION_START))
        self.register_buffer("step_rate", torch.full((steps,), CALIBRATION_START))
        self.shifts = False

    def forward(self, y: Tensor, z: Tensor, step: int) -> Tensor:
        """Logits [B, A] in fp32 for states [B, A, size] after ``step`` (0-based)."""
        state = (y + z).float()
        with torch.autocast(state.device.type, enabled=False):
            logits = F.linear(state, self.projection.weight.float(), self.projection.bias.float()).squeeze(-1)
        if self.shifts and not self.training:
            at = min(step, self.step_rate.shape[0] - 1)
            logits = logits + self.step_accuracy[at].logit(1e-4) - self.step_rate[at].logit(1e-4)
        return logits

    @torch.no_grad()
    def record(self, targets: Tensor, logits: Sequence[Tensor], valid: Tensor | None = None) -> None:
        """Moves the calibration towards a batch: ``targets`` [K, B, T] and logits [B, T] of the same steps."""
        for step, values in enumerate(logits[: self.step_rate.shape[0]]):
            for buffer, now in ((self.step_accuracy, targets[step]), (self.step_rate, values.sigmoid())):
                buffer[step].lerp_(_mean(now.float(), valid), 1 - CALIBRATION_DECAY)


def halting_targets(losses: Tensor, correct: Tensor, *, epsilon: float = 0.01) -> Tensor:
    """Whether a position need not go on, after each step.

    Args:
        losses: [K, B, T] cross-entropy in nats after each of K steps.
        correct: [K, B, T] whether the likeliest token is the right one.
        epsilon: gain in nats below which another step is not worth it.

    Returns:
        [K, B, T] of 0 and 1; the last step is always 1.
    """
    stop = correct.clone()
    stop[:-1] |= losses[:-1] - losses[1:] < epsilon
    stop[-1] = True
    return stop.to(losses.dtype)


def halting_loss(
    logits: Sequence[Tensor],
    targets: Tensor,
    *,
    accuracy: Tensor | None = None,
    trust: float = 0.5,
    valid: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the halting head.

    Args:
        logits: [B, T] after each of K steps.
        targets: [K, B, T] from `halting_targets`.
        accuracy: [≥ K] moving average of the targets at each step (the head's ``step_accuracy``); None = not used.
        trust: weight of a position's own target against that average (0-1).
        valid: [B, T] positions that count.

    Returns:
        Mean over positions and over all steps but the last, whose decision changes nothing. 0 for one step.
    """
    if len(logits) < 2:
        return logits[0].sum() * 0 if logits else targets.new_zeros(())
    parts = []
    for step, values in enumerate(logits[:-1]):
        target = targets[step]
        if accuracy is not None:
            target = trust * target + (1 - trust) * accuracy[step]
        loss = F.binary_cross_entropy_with_logits(values, target.to(values.dtype), reduction="none")
        parts.append(_mean(loss, valid))
    return torch.stack(parts).mean()


def halting_steps(logits: Sequence[Tensor], threshold: float) -> Tensor:
    """Steps that each position takes: [B, T] int64 from 1 to K.

    Args:
        logits: [B, T] after each of K steps.
        threshold: of the halting probability (0-1).
    """
    stops = torch.stack([values.sigmoid() > threshold for values in logits])
    stops[-1] = True
    return stops.int().argmax(0) + 1


def halting_statistics(taken: Tensor, logits: Sequence[Tensor], valid: Tensor | None = None) -> dict[str, Tensor]:
    """``act/avg_steps``, ``act/halt_prob_step0`` and ``act/halt_prob`` over real tokens."""
    with torch.no_grad():
        probability = torch.stack([values.sigmoid() for values in logits]).mean(0)
        return {
            "act/avg_steps": _mean(taken.float(), valid),
            "act/halt_prob_step0": _mean(logits[0].sigmoid(), valid),
            "act/halt_prob": _mean(probability, valid),
        }


def accuracy_by_threshold(
    logits: Sequence[Tensor],
    correct: Tensor,
    losses: Tensor,
    thresholds: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99),
    valid: Tensor | None = None,
) -> list[dict[str, float]]:
    """What early exit costs and saves.

    Args:
        logits: [B, T] after each of K steps.
        correct: [K, B, T] whether each step predicts the right token.
        losses: [K, B, T] cross-entropy in nats of each step.
        thresholds: to try.
        valid: [B, T] positions that count.

    Returns:
        For each threshold, and for "always all steps" (threshold 1): ``threshold``, ``avg_steps``,
        ``accuracy`` and ``loss``.
    """
    curve = []
    for threshold in (*thresholds, 1.0):
        taken = halting_steps(logits, threshold)
        index = (taken - 1)[None]
        curve.append(
            {
                "threshold": threshold,
                "avg_steps": _mean(taken.float(), valid).item(),
                "accuracy": _mean(correct.gather(0, index)[0].float(), valid).item(),
                "loss": _mean(losses.gather(0, index)[0].float(), valid).item(),
            }
        )
    return curve


def _mean(values: Tensor, valid: Tensor | None) -> Tensor:
    if valid is None:
        return values.mean()
    weights = valid.to(values.dtype)
    return (values * weights).sum() / weights.sum().clamp(min=1)
