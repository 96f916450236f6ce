"""Low-rank deltas that are taken off again: what a few steps changed, as one matrix for each layer.

Paper: Hu et al. 2021, "LoRA" (arXiv:2106.09685, section 4): W + (α / r) · B A, with B = 0 at the start. The layers are
those of `peft`.

What we do differently:
1. α defaults to r, so that the scale is 1 whatever the rank. (Prompt baking was published with rank 32 and
   α = 1: a scale of 1/32, which hides what is learned.)
2. Taking the adapter off gives the difference of weights by parameter name. Who merges it decides how much of it
   (half-baking), and for a ternary layer that it goes to the latent weight.
3. A is drawn from an explicit generator.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

_NAME = "baking"


def attach(
    model: nn.Module, names: Collection[str], *, rank: int, generator: torch.Generator, alpha: float | None = None
) -> list[str]:
    """Puts an adapter on linear layers, in place; at first it changes nothing.

    Args:
        model: any module.
        names: of the weights that get one, as ``path.weight``.
        rank: r, at least 1.
        generator: of A, on the CPU.
        alpha: None = the rank.

    Returns:
        Names of the parameters of the adapter.

    Raises:
        ValueError: there are no names, the rank is below 1, or the model has an adapter already.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1 or not names:
        raise ValueError(f"an adapter needs layers and a rank of at least 1, got {len(names)} layers and rank {rank}")
    if layers(model):
        raise ValueError("the model has an adapter already; take it off first")
    wanted = [name.removesuffix(".weight") for name in names]
    scale: Any = rank if alpha is None else alpha
    config = LoraConfig(r=rank, lora_alpha=scale, lora_dropout=0.0, target_modules=wanted, bias="none")
    inject_adapter_in_model(config, model, adapter_name=_NAME)
    for layer in layers(model).values():
        first, second = layer.lora_A[_NAME].weight, layer.lora_B[_NAME].weight
        bound = 1 / math.sqrt(first.shape[1])
        drawn = torch.rand(first.shape, generator=generator) * 2 * bound - bound
        with torch.no_grad():
            first.copy_(drawn.to(first))
            second.zero_()
    return [name for name, _ in model.named_parameters() if f".{_NAME}." in name]


def layers(model: nn.Module) -> dict[str, Any]:
    """Layers with an adapter (`peft.tuners.lora.LoraLayer`) by path."""
    if not hasattr(model, "peft_config"):
        return {}  # without an adapter nobody waits for the import
    from peft.tuners.lora import LoraLayer

    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer)}


@torch.no_grad()
def take_off(model: nn.Module) -> dict[str, Tensor]:
    """Removes the adapter, in place, and gives what it added to each weight.

    Returns:
        (α / r) · B A by the name of the weight; the model computes as it did before the adapter was put on.
    """
    deltas: dict[str, Tensor] = {}
    for path, layer in layers(model).items():
        deltas[f"{path}.weight"] = layer.get_delta_weight(_NAME).detach().clone()
        parent, _, child = path.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(model, "peft_config"):
        del model.peft_config
    return deltas
