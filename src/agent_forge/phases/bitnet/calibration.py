"""Calibration: how much each layer suffers from three levels, measured on real activations.

For a layer y = W·x the relative output error of a quantized Ŵ on calibration tokens is

    e = Σ‖(Ŵ − W)·x‖² / Σ‖W·x‖²,

which is what the next layer sees; the error of the weights alone would overrate columns that no activation uses.
The idea is that of layer-wise post-training quantization (Frantar et al. 2022, GPTQ, arXiv:2210.17323, equation 1).

What we do differently:
1. Nothing is solved. The error orders the layers (robust ones become ternary first) and picks the group size.
2. Σ‖D·x‖² = Σ tr(D·C·Dᵀ) with C = Σ x·xᵀ, so one pass over the samples serves every group size.
3. Without samples C is the identity: the error of the weights themselves (data-free).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.ternary import Layout, dequantize, fitting_group_size, quantize


@dataclass(frozen=True)
class LayerCalibration:
    """What was measured on one layer.

    Attributes:
        absmax: largest input seen; 0 without samples.
        outlier_ratio: mean over tokens of largest / root-mean-square input; what one int8 scale has to span.
        errors: relative output error by group size.
        group_size: the one that was chosen.
    """

    absmax: float
    outlier_ratio: float
    errors: dict[int, float]
    group_size: int

    @property
    def sensitivity(self) -> float:
        """The error at the chosen group size."""
        return self.errors[self.group_size]


@dataclass
class _Inputs:
    moment: Tensor
    tokens: int = 0
    absmax: float = 0.0
    ratios: float = 0.0


@torch.no_grad()
def calibrate(
    model: nn.Module,
    linears: Mapping[str, nn.Linear],
    batches: Iterable[Mapping[str, Any]],
    *,
    group_size: int,
    finer_group_size: int,
    finer_above: float,
) -> dict[str, LayerCalibration]:
    """Measures every layer and chooses its group size.

    Args:
        model: in eval mode, full precision.
        linears: the layers by parameter name.
        batches: keyword arguments for ``model``; empty = data-free.
        group_size: for ordinary layers (0 = per tensor, −1 = per row, else columns).
        finer_group_size: for layers whose error is above ``finer_above``, if that lowers it.
        finer_above: relative output error, 0–1. A Gaussian under absmean has about 0.2.

    Returns:
        The calibration of each layer, in the order of ``linears``.
    """
    seen = _watch_inputs(model, linears, batches)
    return {
        name: _choose(linear.weight, seen.get(name), group_size, finer_group_size, finer_above)
        for name, linear in linears.items()
    }


def by_sensitivity(calibration: Mapping[str, LayerCalibration]) -> list[str]:
    """Names from the most robust layer to the most sensitive one; equal ones in the order of their names."""
    return sorted(calibration, key=lambda name: (calibration[name].sensitivity, name))


def in_stages(names: Sequence[str], num_stages: int) -> list[list[str]]:
    """Cuts an order into at most ``num_stages`` runs of nearly equal length.

    Raises:
        ValueError: no stage at all.
    """
    if num_stages < 1:
        raise ValueError(f"at least one stage is needed, got {num_stages}")
    count = min(num_stages, len(names))
    cuts = [len(names) * index // count for index in range(count + 1)] if count else [0]
    return [list(names[first:last]) for first, last in pairwise(cuts)]


def _watch_inputs(
    model: nn.Module, linears: Mapping[str, nn.Linear], batches: Iterable[Mapping[str, Any]]
) -> dict[str, _Inputs]:
    """C, range and outliers of each layer's inputs; 4 · in² bytes a layer."""
    seen: dict[str, _Inputs] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            tokens = arguments[0].detach().flatten(0, -2).float()
            width = tokens.shape[-1]
            entry = seen.setdefault(name, _Inputs(torch.zeros(width, width, device=tokens.device)))
            entry.moment.addmm_(tokens.t(), tokens)
            largest = tokens.abs().amax(-1)
            entry.absmax = max(entry.absmax, float(largest.max()))
            entry.ratios += float((largest / tokens.square().mean(-1).sqrt().clamp(min=1e-12)).sum())
            entry.tokens += len(tokens)

        return hook

    handles = [linear.register_forward_pre_hook(watch(name)) for name, linear in linears.items()]
    try:
        for batch in batches:
            model(**batch)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _choose(weight: Tensor, inputs: _Inputs | None, group_size: int, finer: int, above: float) -> LayerCalibration:
    columns = weight.shape[1]
    chosen = fitting_group_size(columns, group_size)
    errors = {chosen: _output_error(weight, inputs, chosen)}
    fine = fitting_group_size(columns, finer)
    if errors[chosen] > above and fine != chosen:
        errors[fine] = _output_error(weight, inputs, fine)
        chosen = fine if errors[fine] < errors[chosen] else chosen
    if inputs is None:
        return LayerCalibration(0.0, 0.0, errors, chosen)
    return LayerCalibration(inputs.absmax, inputs.ratios / max(inputs.tokens, 1), errors, chosen)


def _output_error(weight: Tensor, inputs: _Inputs | None, group_size: int) -> float:
    layout = Layout(group_size)
    difference = dequantize(*quantize(weight, layout), layout) - weight.float()
    lost, whole = _energy(difference, inputs), _energy(weight.float(), inputs)
    return lost / whole if whole > 0 else 0.0


def _energy(matrix: Tensor, inputs: _Inputs | None) -> float:
    """Σ‖matrix · x‖² over the tokens seen."""
    if inputs is None:
        return float(matrix.square().sum())
    return float((matrix @ inputs.moment).mul_(matrix).sum())
