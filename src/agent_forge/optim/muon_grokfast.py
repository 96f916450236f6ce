"""Muon × Grokfast: one optimizer that filters gradients and routes each parameter by its role.

Sources: Jordan et al. 2024 (Muon); Liu et al. 2025, arXiv:2502.16982, section 2.2 (update scale, weight decay);
Lee et al. 2024, arXiv:2405.20233, algorithm 1 (Grokfast-EMA); Loshchilov and Hutter 2019, arXiv:1711.05101 (AdamW).

What we do differently:
1. One class for both halves: matrices of the body by Muon, the rest by AdamW; with λ = 0 and no clipping a step
   is the step of ``torch.optim.Muon`` and ``torch.optim.AdamW``.
2. The raw gradient is clipped first and filtered afterwards: clipped after, the filter would be scaled away.
3. A matrix that is several projections stacked by rows may be orthogonalised block by block (``row_blocks``).
4. The state is plain nested mappings of tensors and numbers by parameter name, so that it can be saved without
   pickle and compared across runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from agent_forge.optim.orthogonalize import orthogonality_error, orthogonalize


class MuonGrokfast(Optimizer):
    """Muon for 2-D body matrices, AdamW for everything else, Grokfast-EMA before both.

    Args:
        named_parameters: pairs of name and parameter; parameters that need no gradient are skipped.
        matrices: names that go to Muon (see `matrix_names`); each must be 2-D.
        lr: peak learning rate of Muon; its update has the root mean square of an AdamW update.
        adamw_lr: peak learning rate of AdamW; None = ``lr``.
        weight_decay: decoupled decay of both halves, per unit of learning rate. Applied to 2-D parameters only
            in the AdamW half (gains and biases are not decayed).
        momentum: β of Muon, in [0, 1).
        nesterov: looks one momentum step ahead.
        betas: (β₁, β₂) of AdamW.
        epsilon: of AdamW.
        orthogonalization_steps: k of Newton–Schulz.
        orthogonalization: "newton_schulz" or "svd".
        orthogonalization_dtype: arithmetic of Newton–Schulz.
        clip_norm: global norm to which raw gradients are clipped; 0 = never.
        grokfast_lambda: λ, how much of the slow gradient is added; 0 = off and free of cost.
        grokfast_alpha: α, memory of the slow gradient, in [0, 1).
        row_blocks: for a stacked matrix, the rows of each block (they add up to all rows).

    Attributes:
        grokfast_lambda: may be lowered while training (premortem D1).
        gradient_norm: global norm of the raw gradient at the last step, if it was clipped or measured; a step
            whose norm is not finite changes nothing.
        measured: figures of the last step taken with ``measure=True``.

    Raises:
        ValueError: a value out of range, a Muon name that is unknown or not 2-D, blocks that do not add up.
    """

    def __init__(
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        matrices: Collection[str],
        *,
        lr: float = 2e-3,
        adamw_lr: float | None = None,
        weight_decay: float = 0.05,
        momentum: float = 0.9,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        epsilon: float = 1e-8,
        orthogonalization_steps: int = 5,
        orthogonalization: str = "newton_schulz",
        orthogonalization_dtype: torch.dtype = torch.bfloat16,
        clip_norm: float = 1.0,
        grokfast_lambda: float = 0.0,
        grokfast_alpha: float = 0.98,
        row_blocks: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("clip_norm", clip_norm)):
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        for name, value in (("momentum", momentum), ("grokfast_alpha", grokfast_alpha)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {value}")
        if grokfast_lambda < 0:
            raise ValueError(f"grokfast_lambda must not be negative, got {grokfast_lambda}")
        trained = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
        self._names: dict[Tensor, str] = {parameter: name for name, parameter in trained.items()}
        self._row_blocks = {name: tuple(rows) for name, rows in (row_blocks or {}).items() if name in matrices}
        _check_matrices(trained, matrices, self._row_blocks)
        self.orthogonalization_steps = orthogonalization_steps
        self.orthogonalization = orthogonalization
        self.orthogonalization_dtype = orthogonalization_dtype
        self.momentum, self.nesterov = momentum, nesterov
        self.betas, self.epsilon = betas, epsilon
        self.clip_norm = clip_norm
        self.grokfast_lambda, self.grokfast_alpha = grokfast_lambda, grokfast_alpha
        self.measured: dict[str, float] = {}
        self.gradient_norm = 0.0
        self.num_steps = 0
        rate = lr if adamw_lr is None else adamw_lr
        rest = {name: p for name, p in trained.items() if name not in matrices}
        groups = [
            # Equal shapes side by side, so that they are orthogonalised together.
            _group("muon", sorted((p for n, p in trained.items() if n in matrices), key=_shape_key), lr, weight_decay),
            _group("adamw", [p for p in rest.values() if p.ndim >= 2], rate, weight_decay),
            _group("adamw", [p for p in rest.values() if p.ndim < 2], rate, 0.0),
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "weight_decay": weight_decay})

    def set_rate(self, multiplier: float) -> None:
        """Sets every learning rate to its peak times ``multiplier`` (see `schedules`)."""
        for group in self.param_groups:
            group["lr"] = group["peak_lr"] * multiplier

    def scale_rate(self, names: Collection[str], factor: float) -> None:
        """Multiplies the peak learning rate of some parameters, which form groups of their own from then on.

        Rates are no part of `state_dict`: whoever resumes scales them again.

        Raises:
            ValueError: none of the names is a trained parameter.
        """
        chosen = {id(parameter) for parameter, name in self._names.items() if name in names}
        if not chosen:
            raise ValueError(f"none of these is a trained parameter: {sorted(names)[:5]}")
        for group in list(self.param_groups):
            own = [parameter for parameter in group["params"] if id(parameter) in chosen]
            if not own:
                continue
            slower = {**group, "params": own, "lr": group["lr"] * factor, "peak_lr": group["peak_lr"] * factor}
            if len(own) == len(group["params"]):
                group.update(slower)
                continue
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in chosen]
            self.param_groups.append(slower)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Callable[[], float] | None = None, *, measure: bool = False
    ) -> float | None:
        """One update from the gradients in place.

        Args:
            closure: evaluates the loss anew, as in every torch optimizer.
            measure: fills `measured` with ``grad/norm``, ``grokfast/ratio`` (filtered / raw norm) and
                ``optim/orthogonality_error`` (first moving matrix, normalised by √ of the short side).

        Returns:
            The closure's value, if there is one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        gradients: list[Tensor] = [p.grad for p in active]
        self.measured = {}
        # 1. Clip the raw gradient.
        if gradients and (self.clip_norm > 0 or measure):
            self.gradient_norm = self._clip(gradients)
            if not math.isfinite(self.gradient_norm):
                return loss
            if measure:
                self.measured["grad/norm"] = self.gradient_norm
        # 2. ĝ = g + λ·h with h the exponential mean of g.
        if self.grokfast_lambda > 0 and gradients:
            gradients = self._filter(active, gradients, measure)
        filtered = dict(zip(active, gradients, strict=True))
        # 3. Route by role.
        for group in self.param_groups:
            members = [p for p in group["params"] if p in filtered]
            if members and group["role"] == "muon":
                self._muon(members, [filtered[p] for p in members], group, measure)
            elif members:
                self._adamw(members, [filtered[p] for p in members], group)
        self.num_steps += 1
        return loss

    def _clip(self, gradients: list[Tensor]) -> float:
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))))
        if 0 < self.clip_norm < norm < math.inf:
            torch._foreach_mul_(gradients, self.clip_norm / (norm + 1e-6))
        return norm

    def _filter(self, active: list[Tensor], gradients: list[Tensor], measure: bool) -> list[Tensor]:
        for parameter, gradient in zip(active, gradients, strict=True):
            state = self.state[parameter]
            if "slow" not in state:
                state["slow"] = gradient.clone()
        slow = [self.state[p]["slow"] for p in active]
        torch._foreach_lerp_(slow, gradients, 1 - self.grokfast_alpha)
        filtered = torch._foreach_add(gradients, slow, alpha=self.grokfast_lambda)
        if measure:
            raw = torch.stack(torch._foreach_norm(gradients)).norm()
            ratio = torch.stack(torch._foreach_norm(filtered)).norm() / raw.clamp(min=1e-12)
            self.measured["grokfast/ratio"] = float(ratio)
        return list(filtered)

    def _muon(self, members: list[Tensor], gradients: list[Tensor], group: Mapping[str, Any], measure: bool) -> None:
        for parameter in members:
            state = self.state[parameter]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        momenta = [self.state[p]["momentum"] for p in members]
        torch._foreach_lerp_(momenta, gradients, 1 - self.momentum)
        updates = list(torch._foreach_lerp(gradients, momenta, self.momentum)) if self.nesterov else momenta
        targets, sources = self._blocks(members, updates)
        torch._foreach_mul_(members, 1 - group["lr"] * group["weight_decay"])
        orthogonal = orthogonalize(
            sources,
            steps=self.orthogonalization_steps,
            method=self.orthogonalization,
            dtype=self.orthogonalization_dtype,
        )
        for target, update in zip(targets, orthogonal, strict=True):
            # A matrix without gradient (behind an output that starts at zero) has no direction to judge.
            if measure and "optim/orthogonality_error" not in self.measured and bool(update.any()):
                self.measured["optim/orthogonality_error"] = orthogonality_error(update)
            # 0.2·√max(rows, columns) gives the update the root mean square of AdamW's (Liu et al., eq. 4).
            target.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(target.shape)))

    def _blocks(self, members: list[Tensor], updates: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and updates, stacked matrices split into views of their blocks; equal shapes adjacent."""
        pairs: list[tuple[Tensor, Tensor]] = []
        for parameter, update in zip(members, updates, strict=True):
            rows = self._row_blocks.get(self._names[parameter])
            if rows is None:
                pairs.append((parameter, update))
            else:
                pairs.extend(zip(torch.split(parameter, list(rows)), torch.split(update, list(rows)), strict=True))
        if self._row_blocks:
            pairs.sort(key=lambda pair: _shape_key(pair[0]))
        return [target for target, _ in pairs], [source for _, source in pairs]

    def _adamw(self, members: list[Tensor], gradients: list[Tensor], group: Mapping[str, Any]) -> None:
        for parameter in members:
            state = self.state[parameter]
            if "mean" not in state:
                state["mean"] = torch.zeros_like(parameter)
                state["square"] = torch.zeros_like(parameter)
                state["count"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        states = [self.state[p] for p in members]
        adamw(
            list(members),
            gradients,
            [s["mean"] for s in states],
            [s["square"] for s in states],
            [],
            [s["count"] for s in states],
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=self.epsilon,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs, by parameter name: tensors and numbers only."""
        tensors = {self._names[p]: dict(state) for p, state in self.state.items() if state}
        return {"num_steps": self.num_steps, "grokfast_lambda": self.grokfast_lambda, "parameters": tensors}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over a state of `state_dict`.

        Raises:
            ValueError: it names parameters that this optimizer does not hold, or has other shapes.
        """
        by_name = {name: parameter for parameter, name in self._names.items()}
        strangers = sorted(set(state_dict["parameters"]) - set(by_name))
        if strangers:
            raise ValueError(f"the optimizer state names unknown parameters: {', '.join(strangers[:5])}")
        self.num_steps = int(state_dict["num_steps"])
        self.grokfast_lambda = float(state_dict["grokfast_lambda"])
        self.state.clear()
        for name, entries in state_dict["parameters"].items():
            parameter = by_name[name]
            for key, value in entries.items():
                if key != "count" and value.shape != parameter.shape:
                    raise ValueError(
                        f"state {key} of {name} is {tuple(value.shape)}, expected {tuple(parameter.shape)}"
                    )
                self.state[parameter][key] = value.detach().clone().to(parameter.device)


def matrix_names(model: nn.Module) -> set[str]:
    """Names of the 2-D weights that Muon should take: weights of `nn.Linear` that are neither head nor embedding.

    A weight shared with an embedding counts as embedding; the output head is the linear layer whose width equals
    the number of embedded tokens.
    """
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    embedded = {id(weight) for weight in embeddings}
    vocabulary = {weight.shape[0] for weight in embeddings}
    names: set[str] = set()
    for prefix, module in model.named_modules():
        if not isinstance(module, nn.Linear) or id(module.weight) in embedded:
            continue
        is_head = prefix.rpartition(".")[2] in ("lm_head", "head", "output") and module.out_features in vocabulary
        # A vector in disguise (one output, as in a halting head) has no spectrum to even out.
        if not is_head and min(module.weight.shape) > 1:
            names.add(f"{prefix}.weight" if prefix else "weight")
    return names


def _group(role: str, parameters: list[nn.Parameter], lr: float, weight_decay: float) -> dict[str, Any]:
    return {"params": parameters, "role": role, "lr": lr, "peak_lr": lr, "weight_decay": weight_decay}


def _shape_key(matrix: Tensor) -> tuple[int, int]:
    return min(matrix.shape), max(matrix.shape)


def _check_matrices(
    trained: Mapping[str, nn.Parameter], matrices: Collection[str], row_blocks: Mapping[str, Sequence[int]]
) -> None:
    for name in sorted(matrices):
        if name in trained and trained[name].ndim != 2:
            raise ValueError(f"Muon takes 2-D parameters only; {name} has shape {tuple(trained[name].shape)}")
    if trained and matrices and not any(name in trained for name in matrices):
        raise ValueError(f"none of the matrices is a trained parameter: {sorted(matrices)[:5]}")
    for name, rows in row_blocks.items():
        if name in trained and sum(rows) != trained[name].shape[0]:
            raise ValueError(f"row blocks {tuple(rows)} of {name} do not add up to its {trained[name].shape[0]} rows")
