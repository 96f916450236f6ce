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

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.ternary import ternary_linears
from agent_forge.optim.muon_grokfast import MuonGrokfast

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
        self.protected = dict(protected or {})
        parameters = dict(student.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name not in frozen)
        self.optimizer = MuonGrokfast(
            parameters.items(),
            set(matrices),
            lr=learning_rate,
            adamw_lr=adamw_learning_rate,
            weight_decay=weight_decay,
        )
        self._tables = {name: parameters[name] for name in self.protected}

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
        for name, layer in ternary_linears(self.student).items():
            layer.blend = blends.get(name, 1.0)
        self.optimizer.set_rate(rate)
        loss, parts = self.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if watch:
            parts["bitnet/gradient_share"] = gradient_share(self.student)
        self.optimizer.step()
        with torch.no_grad():
            for name, (rows, values) in self.protected.items():
                self._tables[name][list(rows)] = values
        return parts

    def loss(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch and its parts as numbers."""
        with torch.no_grad():
            expected, expected_hidden = self._forward(self.teacher, batch)
        logits, hidden = self._forward(self.student, batch)
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

    def _forward(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits and what the head read."""
        seen: list[Tensor] = []
        head = model.get_output_embeddings()  # type: ignore[operator]
        handle = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
        scope = nullcontext() if self.autocast == torch.float32 else torch.autocast("cpu", self.autocast)
        if batch["input_ids"].device.type != "cpu" and self.autocast != torch.float32:
            scope = torch.autocast(batch["input_ids"].device.type, self.autocast)
        try:
            with scope:
                logits = model(**accepted(model, batch), use_cache=False).logits
        finally:
            handle.remove()
        return logits.float(), seen[0].float()


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


def gradient_share(model: nn.Module) -> float:
    """Share of latent weights whose gradient is not zero (premortem RISK-004); 1 without ternary layers."""
    gradients = [layer.weight.grad for layer in ternary_linears(model).values()]
    total = sum(layer.weight.numel() for layer in ternary_linears(model).values())
    alive = sum(int(torch.count_nonzero(gradient)) for gradient in gradients if gradient is not None)
    return alive / total if total else 1.0


def accepted(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What of a batch ``model`` takes, without labels: foreign architectures know no ``document_ids``."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in batch.items() if name in known and name != "labels"}


def _relations(hidden: Tensor) -> Tensor:
    """Log-probabilities [n, n] of how tokens relate by cosine, for at most 512 evenly spaced tokens."""
    stride = -(-len(hidden) // _MAX_RELATED)
    unit = F.normalize(hidden[::stride], dim=-1)
    return F.log_softmax(unit @ unit.t() / _RELATION_TEMPERATURE, -1)
