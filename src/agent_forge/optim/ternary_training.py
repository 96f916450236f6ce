"""One step of training through the straight-through estimator, for every phase that trains ternary weights.

Papers: Bengio et al. 2013 (arXiv:1308.3432, section 4) for the estimator; Ma et al. 2024 (arXiv:2402.17764) for what
the forward sees; Lee et al. 2024 (Grokfast, arXiv:2405.20233, algorithm 1) for the filter.

What we do differently:
1. Latent weights go to Muon or AdamW with a higher rate than full precision would take: a latent weight has to
   cross a rounding edge before anything changes.
2. Rows of special tokens are put back after every step (premortem RISK-002): a thought token that moves is no longer
   the token that was taught.
3. A step whose loss or gradient norm is not finite changes nothing, and says so.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.ternary import ternary_linears
from agent_forge.optim.muon_grokfast import MuonGrokfast

_FEWEST_ALIVE = 0.01


class TernaryTraining:
    """A student with ternary layers and its optimizer.

    Args:
        student: with thawed `TernaryLinear` layers (`agent_forge.model.ternary_checkpoint.thaw_student`).
        matrices: names of the latent weights, for the optimizer's Muon half; empty = AdamW for everything.
        frozen: names of parameters that are not trained.
        protected: rows (by table name) that are put back after every step.
        extra: parameters of a second module that trains with the student (an auxiliary head), by name.
        learning_rate: peak of Muon.
        adamw_learning_rate: peak of AdamW.
        weight_decay: decoupled, per unit of rate.
        clip_norm: global norm to which gradients are clipped; 0 = never.
        grokfast_lambda: how much of the slow gradient is added; 0 = off.
        grokfast_alpha: memory of the slow gradient.

    Attributes:
        optimizer: its state is all that a resumed run needs beside the weights.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        matrices: Collection[str],
        frozen: Collection[str] = (),
        protected: Mapping[str, tuple[Sequence[int], Tensor]] | None = None,
        extra: Mapping[str, nn.Parameter] | None = None,
        learning_rate: float = 2e-3,
        adamw_learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        clip_norm: float = 1.0,
        grokfast_lambda: float = 0.0,
        grokfast_alpha: float = 0.98,
    ) -> None:
        self.student = student
        self.protected = dict(protected or {})
        parameters = dict(student.named_parameters())
        for name, parameter in parameters.items():
            parameter.requires_grad_(name not in frozen)
        self.optimizer = MuonGrokfast(
            {**parameters, **(extra or {})}.items(),
            {name for name in matrices if name not in frozen},
            lr=learning_rate,
            adamw_lr=adamw_learning_rate,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            grokfast_lambda=grokfast_lambda,
            grokfast_alpha=grokfast_alpha,
        )
        self._trained = {**parameters, **(extra or {})}
        self._tables = {name: parameters[name] for name in self.protected}
        self._finite = True

    def blend(self, blends: Mapping[str, float] | None = None) -> None:
        """Sets λ of every ternary layer: 1 where nothing else is said. Call it before the forward pass."""
        for name, layer in ternary_linears(self.student).items():
            layer.blend = (blends or {}).get(name, 1.0)

    def update(self, loss: Tensor, *, rate: float, watch: bool = False) -> dict[str, float]:
        """`backward` and `apply` in one."""
        self.backward(loss)
        return self.apply(rate=rate, watch=watch)

    def backward(self, loss: Tensor) -> None:
        """Gradients of a scalar loss, in place of the last step's."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._finite = math.isfinite(float(loss.detach()))

    def apply(self, *, rate: float, watch: bool = False) -> dict[str, float]:
        """Optimizer step and protected rows, after `backward`.

        Args:
            rate: factor on the peak learning rates.
            watch: measures the share of latent weights with a gradient too.

        Returns:
            ``gradient_norm`` before clipping (infinite or NaN: nothing was changed), ``gradient_share`` if watched.
        """
        self.optimizer.set_rate(rate)
        figures: dict[str, float] = {}
        if watch:
            figures["gradient_share"] = gradient_share(self.student)
        figures["gradient_norm"] = math.nan
        if self._finite:
            self.optimizer.step(measure=watch)
            figures["gradient_norm"] = self.optimizer.gradient_norm
            self.put_back()
        return figures

    @torch.no_grad()
    def put_back(self) -> None:
        """Gives the protected rows their values again."""
        for name, (rows, values) in self.protected.items():
            self._tables[name][list(rows)] = values

    def state(self) -> dict[str, Any]:
        """Weights and optimizer, as copies that own their memory; nested mappings of tensors and numbers."""
        weights = {name: p.detach().clone() for name, p in self._trained.items()}
        return {"weights": weights, "optimizer": copied(self.optimizer.state_dict())}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave; the given tensors are copied and may be used again."""
        for name, value in state["weights"].items():
            self._trained[name].copy_(value)
        self.optimizer.load_state_dict(copied(state["optimizer"]))


def gradient_share(model: nn.Module) -> float:
    """Share of latent weights whose gradient is not zero (premortem RISK-004); 1 without ternary layers."""
    gradients = [layer.weight.grad for layer in ternary_linears(model).values()]
    total = sum(layer.weight.numel() for layer in ternary_linears(model).values())
    alive = sum(int(torch.count_nonzero(gradient)) for gradient in gradients if gradient is not None)
    return alive / total if total else 1.0


def stall(share: float) -> str | None:
    """What a `gradient_share` means at which the estimator is not at work (premortem RISK-004); None if it is."""
    if share >= _FEWEST_ALIVE:
        return None
    return f"only {share:.2%} of the latent weights have a gradient; ternary training stalls"


def copied(value: Any) -> Any:
    """A deep copy of nested mappings whose tensors own their memory."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    return {key: copied(entry) for key, entry in value.items()} if isinstance(value, Mapping) else value
