"""Accuracy recovery: quantization-aware training against the full-precision model.

Papers: Ma et al. 2024 (arXiv:2402.17764) and Wang et al. 2023 (arXiv:2310.11453, section 2.2) for training through
the rounding; Hinton et al. 2015 (arXiv:1503.02531, section 2) for the logits; Wang et al. 2020 (MiniLM,
arXiv:2002.10957, section 3.2) for relations between hidden states; Liu et al. 2024 (LLM-QAT, arXiv:2305.17888,
section 2.2) for the unquantized model as the teacher.

    loss = a · CE(student, labels) + b · T² · KL(teacher ‖ student) + c · KL(R(teacher) ‖ R(student)),
    R(h) = softmax over tokens of cosine(h_i, h_j) / 0.1

What we do differently:
1. R is taken on what the head reads, found by a hook, so that every architecture has it. Cosines are compared, not
   scaled products, because the student is free to choose the length of its features.
2. No average of weights (it ruins ternary networks), hardly any decay, and a higher rate than for full precision:
   a latent weight has to cross a rounding edge before anything changes.
3. Rows of special tokens are put back after every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.forward import logits_and_hidden
from agent_forge.optim.ternary_training import TernaryTraining

_RELATION_TEMPERATURE = 0.1
_MAX_RELATED = 512


class Recovery:
    """Student, frozen teacher and optimizer.

    Args:
        student: with `TernaryLinear` layers.
        teacher: the same model in full precision; only read.
        matrices: names of the latent weights, for the optimizer's Muon half; empty = AdamW for everything.
        frozen: names of parameters that are not trained.
        protected: rows (by table name) that are put back after every step.
        learning_rate: peak of Muon.
        adamw_learning_rate: peak of AdamW.
        weight_decay: decoupled, per unit of rate.
        weights: (a, b, c) of the loss.
        temperature: T.
        autocast: type of the forward passes, fp32 = none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        *,
        matrices: Sequence[str],
        frozen: Sequence[str] = (),
        protected: Mapping[str, tuple[Sequence[int], Tensor]] | None = None,
        learning_rate: float = 2e-3,
        adamw_learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        weights: tuple[float, float, float] = (0.2, 0.8, 0.1),
        temperature: float = 1.0,
        autocast: torch.dtype = torch.float32,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.weights, self.temperature, self.autocast = weights, temperature, autocast
        self.training = TernaryTraining(
            student,
            matrices=matrices,
            frozen=frozen,
            protected=protected,
            learning_rate=learning_rate,
            adamw_learning_rate=adamw_learning_rate,
            weight_decay=weight_decay,
        )

    def step(
        self, batch: Mapping[str, Tensor], *, rate: float, blends: Mapping[str, float], watch: bool = False
    ) -> dict[str, float]:
        """One update.

        Args:
            batch: ``input_ids`` and ``labels`` [B, T] (unshifted, −100 = ignored), more is handed on if it is taken.
            rate: factor on the peak learning rates.
            blends: λ by layer for layers that are not at 1.
            watch: measures the share of latent weights with a gradient too.

        Returns:
            Figures of this step.
        """
        self.training.blend(blends)
        loss, parts = self.loss(batch)
        figures = self.training.update(loss, rate=rate, watch=watch)
        if watch:
            parts["bitnet/gradient_share"] = figures["gradient_share"]
        return parts

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts as numbers."""
        with torch.no_grad():
            expected, expected_hidden = logits_and_hidden(self.teacher, batch, self.autocast)
        logits, hidden = logits_and_hidden(self.student, batch, self.autocast)
        labels = batch["labels"][:, 1:]
        valid = labels != -100
        return distillation_loss(
            logits[:, :-1][valid],
            expected[:, :-1][valid],
            labels[valid],
            hidden[:, :-1][valid],
            expected_hidden[:, :-1][valid],
            weights=self.weights,
            temperature=self.temperature,
        )


def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    hidden: Tensor,
    teacher_hidden: Tensor,
    *,
    weights: tuple[float, float, float],
    temperature: float,
) -> tuple[Tensor, dict[str, float]]:
    """Cross-entropy, divergence of the logits and divergence of token relations.

    Args:
        logits: [N, V] of the student.
        teacher_logits: [N, V].
        labels: [N].
        hidden: [N, d] of the student.
        teacher_hidden: [N, d'].
        weights: (a, b, c); a part of weight 0 is not computed.
        temperature: T of the logits.

    Returns:
        The weighted sum in nats, and its parts as numbers.
    """
    total = logits.new_zeros(())
    parts: dict[str, float] = {}
    cross_entropy, divergence, relation = weights
    if cross_entropy:
        value = F.cross_entropy(logits, labels)
        total, parts["bitnet/cross_entropy"] = total + cross_entropy * value, float(value.detach())
    if divergence:
        student = F.log_softmax(logits / temperature, -1)
        target = F.log_softmax(teacher_logits / temperature, -1)
        value = F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2
        total, parts["bitnet/divergence"] = total + divergence * value, float(value.detach())
    if relation:
        value = F.kl_div(_relations(hidden), _relations(teacher_hidden), reduction="batchmean", log_target=True)
        total, parts["bitnet/relation"] = total + relation * value, float(value.detach())
    return total, {"bitnet/loss": float(total.detach()), **parts}


def warm_up(step: int, num_steps: int) -> float:
    """λ of a ramp of ``num_steps``: rises linearly from just above 0 and is 1 from its last step on."""
    return 1.0 if num_steps <= 0 else min(1.0, (step + 1) / num_steps)


def _relations(hidden: Tensor) -> Tensor:
    """Log-probabilities [n, n] of how tokens relate by cosine, for at most 512 evenly spaced tokens."""
    stride = -(-len(hidden) // _MAX_RELATED)
    unit = F.normalize(hidden[::stride], dim=-1)
    return F.log_softmax(unit @ unit.t() / _RELATION_TEMPERATURE, -1)
