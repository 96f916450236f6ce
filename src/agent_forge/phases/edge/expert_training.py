"""Training of an expert vector: shown answers first, then its own.

Papers: Sun, Cetin and Tang 2025, "Transformer²" (arXiv:2501.06252, section 3.2: reward of ±1, a leash to the model
before); Williams 1992 for REINFORCE; Ahmadian et al. 2024 (arXiv:2402.14740) for the mean of the other samples as
baseline; Kingma and Ba 2015 (arXiv:1412.6980) for Adam.

    loss = − Σ_samples A · Σ_t log p(y_t) / tokens + b · KL(before ‖ now),  A = reward − mean of the other samples

What we do differently:
1. A supervised warm start: a small model hardly ever finds a right answer by itself, and without one there is nothing
   to reinforce. What each of the two brings is reported apart.
2. The leash holds to the vector after the warm start, not to the base, which would undo it.
3. Samples of one question are compared with each other; a question that all samples get right, or none, is left out.
4. All vectors of an expert are one flat parameter of one Adam, and are kept within the range that may be used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_forge.model.expert_vectors import LARGEST, SMALLEST, Basis, side_paths
from agent_forge.model.forward import accepted, on_device


class VectorTraining:
    """z of every matrix, and its optimizer.

    Args:
        model: whose own parameters are not trained.
        basis: of the model.
        learning_rate: peak.
    """

    def __init__(self, model: PreTrainedModel, basis: Basis, *, learning_rate: float) -> None:
        self.model, self.basis, self._peak = model, basis, learning_rate
        self.device = next(model.parameters()).device
        self._names = list(basis.factors)
        self._sizes = [len(basis.factors[name].singular) for name in self._names]
        self.flat = nn.Parameter(torch.ones(sum(self._sizes), device=self.device))
        self._optimizer = torch.optim.Adam([self.flat], lr=learning_rate, betas=(0.9, 0.99))

    def vectors(self) -> dict[str, Tensor]:
        """z by the name of the weight, views with a graph to the flat parameter."""
        return dict(zip(self._names, self.flat.split(self._sizes), strict=True))

    def copies(self) -> dict[str, Tensor]:
        """z by the name of the weight, on the CPU and without a graph."""
        return {name: z.detach().cpu().clone() for name, z in self.vectors().items()}

    def applied(self) -> AbstractContextManager[None]:
        """Within, the model computes with the vectors as they are now."""
        return side_paths(self.model, self.basis, self.vectors())

    def update(self, loss: Tensor, rate: float) -> bool:
        """One step of Adam at ``rate`` times the peak; False, and nothing moved, if loss or gradient is not finite."""
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        gradient = self.flat.grad
        if gradient is None or not math.isfinite(float(loss.detach())) or not bool(gradient.isfinite().all()):
            return False
        self._optimizer.param_groups[0]["lr"] = self._peak * rate
        self._optimizer.step()
        with torch.no_grad():
            self.flat.clamp_(SMALLEST, LARGEST)
        return True

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as copies on the CPU."""
        moments = self._optimizer.state.get(self.flat, {})
        zero = torch.zeros_like(self.flat)
        values = {
            "z": self.flat,
            "first": moments.get("exp_avg", zero),
            "second": moments.get("exp_avg_sq", zero),
            "updates": moments.get("step", torch.zeros(())),
        }
        return {name: value.detach().cpu().clone() for name, value in values.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state` gave."""
        with torch.no_grad():
            self.flat.copy_(state["z"].to(self.device))
        if float(state["updates"]) > 0:
            self._optimizer.state[self.flat] = {
                "step": state["updates"].clone(),
                "exp_avg": state["first"].to(self.device).clone(),
                "exp_avg_sq": state["second"].to(self.device).clone(),
            }


def rate_at(step: int, steps: int, *, warm_up: int = 6, floor: float = 0.02) -> float:
    """The share of the peak rate at ``step``: a short rise, then half a cosine down to ``floor``."""
    rise = min(1.0, (step + 1) / max(1, min(warm_up, steps // 4)))
    return rise * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / max(1, steps))))


def supervised_loss(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean nats of the labelled tokens of a batch of `agent_forge.data.packing.Batches`."""
    batch = on_device(next(model.parameters()).device, batch)
    logits = model(**accepted(model, batch), use_cache=False).logits[:, :-1]
    labels = batch["labels"][:, 1:]
    known = labels != -100
    return F.cross_entropy(logits[known].float(), labels[known])


@dataclass(frozen=True)
class Sample:
    """One answer that the model gave itself.

    Attributes:
        question: tokens up to where it speaks.
        said: tokens of thought and answer, with the end of the turn if it came to one.
        advantage: reward less the mean reward of the other answers to this question.
    """

    question: Sequence[int]
    said: Sequence[int]
    advantage: float


def advantages(rewards: Tensor) -> Tensor:
    """Rewards [Q, S] of S ≥ 2 samples of each question, each less the mean of the other samples.

    Raises:
        ValueError: fewer than 2 samples.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards [questions, samples ≥ 2] are expected, got {list(rewards.shape)}")
    others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others


def policy_loss(
    training: VectorTraining, before: Mapping[str, Tensor], samples: Sequence[Sample], *, divergence_weight: float
) -> tuple[Tensor, float]:
    """REINFORCE with a leash.

    Args:
        training: of the vectors.
        before: vectors after the warm start.
        samples: at least one.
        divergence_weight: of KL(before ‖ now), nats per token of the samples.

    Returns:
        The loss, and KL in nats per token.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("there is no sample to learn from")
    ids, said = _laid_out(samples)
    ids, said = ids.to(training.device), said.to(training.device)
    weight = torch.tensor([sample.advantage for sample in samples], device=training.device)
    inputs: dict[str, Any] = {"input_ids": ids, "use_cache": False}
    with torch.no_grad(), side_paths(training.model, training.basis, before):
        old = training.model(**inputs).logits[:, :-1][said].float().log_softmax(-1)
    with training.applied():
        now = training.model(**inputs).logits[:, :-1][said].float().log_softmax(-1)
    likely = now.gather(-1, ids[:, 1:][said][:, None])[:, 0]
    row = said.nonzero()[:, 0]
    policy = -(weight[row] * likely).sum() / len(likely)
    divergence = F.kl_div(now, old, reduction="none", log_target=True).sum(-1).mean()
    return policy + divergence_weight * divergence, float(divergence.detach())


def _laid_out(samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
    """Tokens [B, T] padded behind, and which of the predictions [B, T − 1] are the model's own words."""
    longest = max(len(sample.question) + len(sample.said) for sample in samples)
    ids = torch.zeros(len(samples), longest, dtype=torch.long)
    said = torch.zeros(len(samples), longest - 1, dtype=torch.bool)
    for place, sample in enumerate(samples):
        start, stop = len(sample.question), len(sample.question) + len(sample.said)
        ids[place, :stop] = torch.tensor([*sample.question, *sample.said])
        said[place, start - 1 : stop - 1] = True
    return ids, said
