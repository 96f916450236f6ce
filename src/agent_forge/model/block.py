"""One layer of Cognate, and what all layers of a forward pass share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from agent_forge.model.attention import Attention, GivenVisibility, TokenLayout, Visibility, attend
from agent_forge.model.cache import CacheSlot, CognateCache
from agent_forge.model.config import CognateConfig
from agent_forge.model.convolution import Crossings, GivenTaps, ShortConvolution
from agent_forge.model.gate import MemoryGate, gate_statistics
from agent_forge.model.memory import EmaMemory
from agent_forge.model.norm import RMSNorm
from agent_forge.model.titans import AssociativeMemory


@dataclass
class Pass:
    """What all blocks of one forward pass share."""

    layout: TokenLayout
    table: tuple[Tensor, Tensor]
    visibility: Visibility | GivenVisibility
    crossings: Crossings | GivenTaps
    cache: CognateCache | None
    watch: bool = False
    gates: list[dict[str, Tensor]] = field(default_factory=list)

    def states(self, slot: int) -> dict[str, Any] | None:
        """Small states of a cache slot; None without a cache."""
        return None if self.cache is None else self.cache.layers[slot].states  # type: ignore[union-attr]

    def remember(self, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a slot, these ones last."""
        if self.cache is None:
            return key, value
        layer = self.cache.layers[slot]
        assert isinstance(layer, CacheSlot)
        return layer.update(key, value)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)); Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)
        self.down_proj.starts_as = "output"  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] → the same."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class CognateBlock(GradientCheckpointingLayer):
    """One layer: attention with its memory, then the SwiGLU."""

    def __init__(self, config: CognateConfig, index: int) -> None:
        super().__init__()
        size, width = config.hidden_size, config.short_convolution
        self.index = index
        self.attention_norm = RMSNorm(size, config.rms_norm_eps)
        self.attention_conv = ShortConvolution(size, width) if width else None
        self.attention = make_attention(config, value_residual=config.value_residual and index > 0)
        self.memory = make_memory(config) if config.has_memory(index) else None
        self.gate = MemoryGate(size, config.gate_size) if self.memory is not None and config.gate else None
        self.mlp_norm = RMSNorm(size, config.rms_norm_eps)
        self.mlp_conv = ShortConvolution(size, width) if width else None
        self.mlp = SwiGLU(size, config.intermediate_size)

    def forward(self, x: Tensor, shared: Pass, first_values: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gives the stream [B, T, hidden] and this layer's values (for the value residual)."""
        states = shared.states(self.index)
        h = self.attention_norm(x)
        if self.attention_conv is not None:
            h = self.attention_conv(h, shared.crossings, states, "attention_conv")
        values = self.attention.values(h, first_values)
        key, value = shared.remember(self.index, self.attention.keys(h, shared.table), values)
        mixed = self.attention.output(attend(self.attention.queries(h, shared.table), key, value, shared.visibility))
        if self.memory is not None:
            mixed = self._with_memory(mixed, h, shared, states)
        x = x + mixed
        h = self.mlp_norm(x)
        if self.mlp_conv is not None:
            h = self.mlp_conv(h, shared.crossings, states, "mlp_conv")
        return x + self.mlp(h), values

    def _with_memory(self, attended: Tensor, h: Tensor, shared: Pass, states: dict[str, Any] | None) -> Tensor:
        assert self.memory is not None
        remembered = self.memory(h, shared.layout, states)
        if self.gate is None:
            return attended + remembered
        mixed, gate = self.gate(attended, remembered)
        if shared.watch:
            shared.gates.append(gate_statistics(gate, shared.layout.valid))
        return mixed


def make_memory(config: CognateConfig) -> nn.Module:
    """The memory that the configuration names."""
    if config.memory == "ema":
        return EmaMemory(config.hidden_size, config.memory_size)
    return AssociativeMemory(config.hidden_size, config.memory_size, config.memory_heads, config.memory_chunk)


def make_attention(config: CognateConfig, *, value_residual: bool = False) -> Attention:
    """An attention of the configured shape."""
    return Attention(
        config.hidden_size,
        config.num_attention_heads,
        int(config.num_key_value_heads or config.num_attention_heads),
        head_size=config.head_size,
        qk_norm=config.qk_norm,
        value_residual=value_residual,
        eps=config.rms_norm_eps,
    )
