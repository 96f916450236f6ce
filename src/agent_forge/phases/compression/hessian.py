"""Second-order information for layer-wise quantization: H = Σ x xᵀ over calibration tokens.

Hassibi & Stork 1993 (Optimal Brain Surgeon); Frantar et al. 2022, "GPTQ", arXiv:2210.17323, sections 3.2–3.3: the
error of a layer's output is tr(ΔW H ΔWᵀ); columns are quantized in turn, and the error of each is pushed on to the
columns that are still free, through the Cholesky factor of H⁻¹. Blocks of columns keep the updates in cache.
Runs on the CPU with hooks; nothing else is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Rounder = Callable[[Tensor, int], Tensor]
"""(column [out] fp32, its index) → the quantized column [out]."""


@torch.no_grad()
def collect(model: nn.Module, batches: Iterable[Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """H of the inputs of linear layers.

    Args:
        model: a causal language model.
        batches: token ids [B, T], without padding.
        names: names of weights, such as "model.layers.0.mlp.up_proj.weight".

    Returns:
        name → H [in, in] fp32, divided by the number of tokens. Layers that no token reached are missing.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            rows = arguments[0].detach().reshape(-1, arguments[0].shape[-1]).float()
            sums[name] = sums.get(name, 0) + (rows.T @ rows).double()
            counts[name] = counts.get(name, 0) + rows.shape[0]

        return add

    linears = [(name, modules.get(name.removesuffix(".weight"))) for name in names]
    handles = [m.register_forward_pre_hook(hook(name)) for name, m in linears if isinstance(m, nn.Linear)]
    try:
        for ids in batches:
            model(input_ids=ids)
    finally:
        for handle in handles:
            handle.remove()
    return {name: (total / counts[name]).float() for name, total in sums.items()}


def weighted_error(delta: Tensor, hessian: Tensor) -> float:
    """tr(ΔW H ΔWᵀ): mean squared change of the layer's output per token, summed over outputs."""
    wide = delta.double()
    return float(((wide @ hessian.double()) * wide).sum())


def inverse_factor(hessian: Tensor, *, damping: float = 0.01) -> tuple[Tensor, Tensor]:
    """Columns by descending diagonal, and the upper Cholesky factor of the damped H⁻¹ in that order.

    Args:
        hessian: [in, in].
        damping: share of the mean diagonal that is added to it; columns without input count as 1.

    Raises:
        ValueError: not square, or not positive definite at this damping.
    """
    if hessian.dim() != 2 or hessian.shape[0] != hessian.shape[1] or damping <= 0:
        raise ValueError(f"a square matrix and a positive damping are needed, got {tuple(hessian.shape)}, {damping}")
    damped = hessian.double().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal <= 0] = 1.0
    diagonal += damping * diagonal.mean()
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor, failed = torch.linalg.cholesky_ex(damped[order][:, order])
    if int(failed):
        raise ValueError(f"the Hessian is not positive definite at damping {damping}; raise it")
    upper = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
    return order, upper.float()


def push_errors(
    weight: Tensor, hessian: Tensor, rounder: Rounder, *, block: int = 128, damping: float = 0.01
) -> Tensor:
    """Quantizes columns in turn and lets the free columns make up for the error (GPTQ, algorithm 1).

    Args:
        weight: [out, in].
        hessian: [in, in].
        rounder: quantizes one column; called with the index in the original order.
        block: columns whose updates are applied at once to the rest.
        damping: see `inverse_factor`.

    Returns:
        The quantized weight [out, in], columns in the original order.
    """
    order, upper = inverse_factor(hessian, damping=damping)
    work = weight.detach().float()[:, order].clone()
    out = torch.empty_like(work)
    for start in range(0, work.shape[1], block):
        stop = min(start + block, work.shape[1])
        errors = torch.empty(work.shape[0], stop - start)
        for column in range(start, stop):
            out[:, column] = rounder(work[:, column], int(order[column]))
            error = (work[:, column] - out[:, column]) / upper[column, column]
            errors[:, column - start] = error
            if column + 1 < stop:
                work[:, column + 1 : stop] -= torch.outer(error, upper[column, column + 1 : stop])
        work[:, stop:] -= errors @ upper[start:stop, stop:]
    restored = torch.empty_like(out)
    restored[:, order] = out
    return restored
