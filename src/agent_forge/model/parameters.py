"""Counting parameters, and the guard against a model that is larger than it was meant to be."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig

from agent_forge.errors import ConfigError
from agent_forge.model.config import CognateConfig

_PARTS = {
    "embed_tokens": "embedding",
    "lm_head": "head",
    "attention_conv": "convolution",
    "mlp_conv": "convolution",
    "recursion": "recursion",
    "halting": "halting",
    "memory": "memory",
    "gate": "gate",
    "attention": "attention",
    "self_attn": "attention",
    "mlp": "mlp",
}


def count_parameters(model_or_config: nn.Module | PreTrainedConfig) -> dict[str, int]:
    """Parameters by part; tied tensors count once.

    Args:
        model_or_config: a model, or a configuration (a model of which is built without memory).

    Returns:
        Numbers by part: embedding, head, attention, mlp, convolution, memory, gate, recursion, halting,
        norm, other (those that the model has), and ``total``.
    """
    model = model_or_config
    if isinstance(model, PreTrainedConfig):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model)
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return {**dict(sorted(counts.items())), "total": sum(counts.values())}


def check_budget(config: CognateConfig, target: int, tolerance: float = 0.01) -> dict[str, int]:
    """Refuses a configuration whose model is not of the promised size (failure B1 of the premortem).

    Args:
        config: of the model.
        target: promised number of parameters.
        tolerance: allowed relative deviation (0-1).

    Returns:
        The counts of `count_parameters`.

    Raises:
        ConfigError: outside target · (1 ± tolerance). Names the parts, and what each knob would change, computed
            from the real counts.
    """
    counts = count_parameters(config)
    low, high = target * (1 - tolerance), target * (1 + tolerance)
    if low <= counts["total"] <= high:
        return counts
    excess = counts["total"] - target
    parts = ", ".join(
        f"{part} {count:,}" for part, count in sorted(counts.items(), key=lambda x: -x[1]) if part != "total"
    )
    knobs = "; ".join(f"{knob} {change:+,}" for knob, change in _knobs(config, counts["total"], shrink=excess > 0))
    raise ConfigError(
        f"the model has {counts['total']:,} parameters, {abs(excess):,} {'more' if excess > 0 else 'fewer'} than the "
        f"budget of {target:,} ± {tolerance:.0%} ({low:,.0f} to {high:,.0f}). Parts: {parts}. "
        f"One step of each knob: {knobs}"
    )


def _part(name: str) -> str:
    pieces = name.split(".")
    for piece in pieces:
        if piece in _PARTS and not pieces[-2].endswith("norm"):
            return _PARTS[piece]
    return "norm" if "norm" in pieces[-2] else "other"


def _knobs(config: CognateConfig, total: int, shrink: bool) -> list[tuple[str, int]]:
    """(text of the change, change of the count), the largest first."""
    steps: list[tuple[str, float]] = [("num_hidden_layers", 0), ("intermediate_size", 0.75), ("vocab_size", 0.5)]
    if config.memory != "off":
        steps.append(("memory_size", 0.75))
    if config.has_gate:
        steps.append(("gate_size", 0.5))
    if config.has_recursion:
        steps.append(("recursion_intermediate_size", 0.75))
    found = []
    for knob, factor in steps:
        old = int(getattr(config, knob))
        if factor == 0:
            changed = old - 1 if shrink else old + 1
        else:
            changed = round(old * factor) if shrink else round(old / factor)
        if knob == "memory_size":
            changed -= changed % config.memory_heads
        if changed < 1 or changed == old:
            continue
        difference = count_parameters(_changed(config, knob, changed))["total"] - total
        found.append((f"{knob} {old} → {changed}:", difference))
    return sorted(found, key=lambda entry: -abs(entry[1]))


def _changed(config: CognateConfig, knob: str, value: Any) -> CognateConfig:
    return CognateConfig(**{**config.to_dict(), knob: value})
