"""Layers of Cognate in the operators of a graph, for one text, with their states laid open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.ops import attention, rotary_embedding, symbolic

from agent_forge.model.attention import Attention
from agent_forge.model.block import SwiGLU
from agent_forge.model.config import CognateConfig
from agent_forge.model.convolution import ShortConvolution
from agent_forge.model.gate import MemoryGate
from agent_forge.model.memory import DECAY, EmaMemory
from agent_forge.model.norm import RMSNorm

OPSET = 23

Projection = Callable[[Sequence[nn.Linear]], nn.Module]
"""Makes one product of layers that have the same input."""


@dataclass(frozen=True)
class State:
    """One tensor of the past.

    Attributes:
        input: its name going in.
        output: its name coming out, after the new tokens.
        shape: with "past" where it grows by a row per token.
        dtype: "float32" or "int64".
    """

    input: str
    output: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"

    def example(self, past: int) -> Tensor:
        """Zeros for ``past`` remembered tokens."""
        shape = [past if side == "past" else int(side) for side in self.shape]
        return torch.zeros(shape, dtype=getattr(torch, self.dtype))


@dataclass
class Pass:
    """What all layers of one pass share."""

    past: dict[str, Tensor]
    cos: Tensor
    sin: Tensor
    mask: Tensor
    positions: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)


class Norm(nn.Module):
    """RMSNorm as one operator."""

    weight: Tensor

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight.detach().clone())
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return symbolic(
            "RMSNormalization",
            (x, self.weight),
            {"epsilon": self.eps, "axis": -1},
            dtype=x.dtype,
            shape=x.shape,
            version=OPSET,
        )


class AttentionStep(nn.Module):
    """Projections and attention; keys and values may come from elsewhere (the recursion)."""

    value_mix: Tensor

    def __init__(self, attention: Attention, config: CognateConfig, projection: Projection, *, apart: bool) -> None:
        super().__init__()
        self.heads, self.pairs = config.num_attention_heads, int(config.num_key_value_heads or 0)
        self.size, self.apart = attention.head_size, apart
        if apart:
            self.query = projection([attention.q_proj])
            self.key_value = projection([attention.k_proj, attention.v_proj])
        else:
            self.all = projection([attention.q_proj, attention.k_proj, attention.v_proj])
        self.output = projection([attention.o_proj])
        self.q_norm = None if attention.q_norm is None else Norm(attention.q_norm)
        self.k_norm = None if attention.k_norm is None else Norm(attention.k_norm)
        self.has_mix = attention.value_mix is not None
        if attention.value_mix is not None:
            self.register_buffer("value_mix", attention.value_mix.detach().clone())

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw queries, keys and values [1, T, heads, size] of ``x``."""
        made = self.all(x).unflatten(-1, (self.heads + 2 * self.pairs, self.size))
        query, key, value = made.split([self.heads, self.pairs, self.pairs], 2)
        return query, key, value

    def split_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw keys and values of ``x``."""
        key, value = self.key_value(x).unflatten(-1, (2 * self.pairs, self.size)).split([self.pairs, self.pairs], 2)
        return key, value

    def ready(self, x: Tensor, norm: Norm | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Normalised, rotated [1, heads, T, size]."""
        x = x if norm is None else norm(x)
        return rotary_embedding(x.transpose(1, 2), cos, sin)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Back to [1, T, hidden]."""
        mixed = attention(query, key, value, mask)[0]
        return self.output(mixed.transpose(1, 2).flatten(2))


class SwiGluStep(nn.Module):
    """down(silu(gate(x)) ⊙ up(x)), gate and up in one product."""

    def __init__(self, mlp: SwiGLU, projection: Projection) -> None:
        super().__init__()
        self.both = projection([mlp.gate_proj, mlp.up_proj])
        self.down = projection([mlp.down_proj])

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        gate, up = self.both(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class ConvolutionStep(nn.Module):
    """The short convolution; its state is the last ``width − 1`` inputs."""

    taps: Tensor

    def __init__(self, convolution: ShortConvolution) -> None:
        super().__init__()
        self.width = convolution.width
        self.register_buffer("taps", convolution.weight.detach().T.contiguous())

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """The convolved inputs, and the last ``width − 1`` inputs."""
        joined = torch.cat([past, x], 1)
        length = x.shape[1]
        y = joined[:, self.width - 1 :] * self.taps[0]
        for back in range(1, self.width):
            start = self.width - 1 - back
            y = y + joined[:, start : start + length] * self.taps[back]
        return y, joined[:, length:]


class EmaStep(nn.Module):
    """The averages of `agent_forge.model.memory`, all new tokens in one product."""

    def __init__(self, memory: EmaMemory, projection: Projection) -> None:
        super().__init__()
        self.down, self.up = projection([memory.down_proj]), projection([memory.up_proj])
        self.width = memory.down_proj.out_features

    def states(self, index: int) -> list[State]:
        """The averages after the last token."""
        return [State(f"past_memory.{index}", f"present_memory.{index}", (1, self.width))]

    def forward(self, x: Tensor, shared: Pass, index: int) -> Tensor:
        """See the class."""
        at = shared.positions.float()
        distance = at[:, :, None] - at[:, None, :]
        weights = torch.where(distance >= 0, DECAY ** distance.clamp(min=0), 0.0)
        # an empty past is all zeros, whatever it fades by
        faded = DECAY ** (at - at[:, :1] + 1)
        before = shared.past[f"past_memory.{index}"]
        averages = weights @ (self.down(x) * (1 - DECAY)) + faded[..., None] * before[:, None]
        shared.present[f"present_memory.{index}"] = averages[:, -1]
        return self.up(averages)


class GateStep(nn.Module):
    """The mixture of attention and memory."""

    def __init__(self, gate: MemoryGate, projection: Projection) -> None:
        super().__init__()
        self.hidden, self.output = projection([gate.hidden]), projection([gate.output])

    def forward(self, attended: Tensor, remembered: Tensor) -> Tensor:
        """See the class."""
        share = torch.sigmoid(self.output(F.silu(self.hidden(torch.cat([attended, remembered], -1)))))
        return remembered + share * (attended - remembered)


def remember(shared: Pass, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """All keys and values [1, heads, S, size] of a slot, these ones last; they go out as its state."""
    found = []
    for name, new in (("key", key), ("value", value)):
        joined = torch.cat([shared.past[f"past_key_values.{slot}.{name}"], new], 2)
        shared.present[f"present.{slot}.{name}"] = joined
        found.append(joined)
    return found[0], found[1]


def key_value_states(slot: int, config: CognateConfig) -> list[State]:
    """Keys and values of one attention."""
    shape = (1, int(config.num_key_value_heads or 0), "past", config.head_size)
    return [State(f"past_key_values.{slot}.{name}", f"present.{slot}.{name}", shape) for name in ("key", "value")]
