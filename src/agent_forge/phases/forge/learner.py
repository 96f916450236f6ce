"""One training step of the curriculum: disturbed input, disturbed weights, the loss, the update."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from agent_forge.data.packing import IGNORED
from agent_forge.model.forward import logits_and_hidden
from agent_forge.optim.ternary_training import TernaryTraining
from agent_forge.phases.forge.chaos import disturb_tokens, noisy_weights
from agent_forge.phases.forge.dreams import anchored_loss
from agent_forge.phases.forge.self_modelling import SelfModel, middle_states


class Learner:
    """The student, its optimizer, and what is added to its loss.

    Args:
        student: with thawed ternary layers.
        training: its optimizer.
        self_model: predicts the middle layer; None = off.
        self_weight: of that prediction.
        special: ids of tokens that are never replaced.
        autocast: type of the forward passes.
        before: the model that came in, frozen; ordinary text is held to it. None = not held.
        hold_weight: of the divergence from it.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        training: TernaryTraining,
        *,
        self_model: SelfModel | None = None,
        self_weight: float = 0.0,
        special: tuple[int, ...] = (),
        autocast: torch.dtype = torch.float32,
        before: PreTrainedModel | None = None,
        hold_weight: float = 0.0,
    ) -> None:
        self.student, self.training = student, training
        self.self_model, self.self_weight = self_model, self_weight
        self.special = torch.tensor(special, dtype=torch.long)
        self.autocast = autocast
        self.before, self.hold_weight = before, hold_weight

    def step(
        self,
        batch: Mapping[str, Tensor],
        *,
        rate: float,
        chaos: float = 0.0,
        generator: torch.Generator,
        watch: bool = False,
    ) -> dict[str, float]:
        """One update.

        Args:
            batch: ``input_ids`` and ``labels`` [B, T] (unshifted, −100 = ignored), ``document_ids``, and
                ``ordinary`` bool [B], true for rows of ordinary text.
            rate: factor on the peak learning rates.
            chaos: strength of the disturbances.
            generator: of the disturbances, on the CPU.
            watch: measures more.

        Returns:
            ``forge/loss`` and other figures of this step; nothing where the batch asks for nothing.
        """
        if not bool((batch["labels"][:, 1:] != IGNORED).any()):
            return {}
        shown = batch
        if chaos > 0:
            ids = batch["input_ids"]
            replaceable = ~torch.isin(ids, self.special.to(ids.device))
            shown = {**batch, "input_ids": disturb_tokens(ids, replaceable, chaos, generator)[0]}
        with noisy_weights(self.student, chaos, generator):
            loss, parts = self._loss(shown, batch["labels"])
            self.training.backward(loss)
        figures = self.training.apply(rate=rate, watch=watch)
        return {**parts, **{f"forge/{name}": value for name, value in figures.items()}}

    def dream_step(
        self, batch: Mapping[str, Tensor], before: PreTrainedModel, *, rate: float, divergence_weight: float
    ) -> dict[str, float]:
        """One update on dreams and real text, held near the model ``before``."""
        labels = batch["labels"][:, 1:]
        valid = labels != IGNORED
        if not bool(valid.any()):
            return {"forge/dream_loss": 0.0, "forge/dream_divergence": 0.0, "forge/gradient_norm": 0.0}
        with torch.no_grad():
            reference = logits_and_hidden(before, batch, self.autocast)[0][:, :-1][valid]
        logits = logits_and_hidden(self.student, batch, self.autocast)[0][:, :-1][valid]
        loss, divergence = anchored_loss(logits, reference, labels[valid], divergence_weight=divergence_weight)
        figures = self.training.update(loss, rate=rate)
        return {
            "forge/dream_loss": float(loss.detach()),
            "forge/dream_divergence": divergence,
            "forge/gradient_norm": figures["gradient_norm"],
        }

    def gradients(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Gradients of one batch, copies; the optimizer takes no step."""
        self.training.backward(self._loss(batch, batch["labels"])[0])
        return [p.grad.detach().clone() for p in self.student.parameters() if p.grad is not None]

    def _loss(self, shown: Mapping[str, Tensor], wanted: Tensor) -> tuple[Tensor, dict[str, float]]:
        labels = wanted[:, 1:]
        valid = labels != IGNORED
        with middle_states(self.student) if self.self_model and self.self_weight else nullcontext() as middle:
            logits, hidden = logits_and_hidden(self.student, shown, self.autocast)
        loss = F.cross_entropy(logits[:, :-1][valid], labels[valid])
        parts = {"forge/loss": float(loss.detach())}
        if self.self_model is not None and middle is not None:
            own = self.self_model.loss(hidden[:, :-1], middle[-1][:, :-1], valid)
            parts["forge/self_error"] = float(own.detach())
            loss = loss + self.self_weight * own
        if (held := self._held(shown, logits, valid)) is not None:
            parts["forge/hold_divergence"] = float(held.detach())
            loss = loss + self.hold_weight * held
        return loss, parts

    def _held(self, shown: Mapping[str, Tensor], logits: Tensor, valid: Tensor) -> Tensor | None:
        """KL(model that came in ‖ student) in nats per token of ordinary text; None where there is nothing to hold."""
        rows = shown.get("ordinary")
        if self.before is None or not self.hold_weight or rows is None or not bool(valid[rows].any()):
            return None
        text, real = {name: value[rows] for name, value in shown.items()}, valid[rows]
        with torch.no_grad():
            reference = logits_and_hidden(self.before, text, self.autocast)[0][:, :-1][real].log_softmax(-1)
        now = logits[rows][:, :-1][real].log_softmax(-1)
        return F.kl_div(now, reference, reduction="batchmean", log_target=True)
