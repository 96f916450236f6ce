"""The step graph: new tokens and the states of the past in, logits of the next token and the states out.

One graph serves for the prompt and for decoding: the number of new tokens and of remembered ones are open. All of
the past goes in and out as tensors: keys and values of every attention, the last inputs of the short convolutions,
the averages of the memory, and the positions of the remembered tokens, from which the graph works out the positions
of the new ones and who sees whom. Names of keys and values are those that the neighbours use.

The graph computes what `agent_forge.model.modeling` computes for one text without padding, in operators that
runtimes have as one kernel (RMSNormalization, RotaryEmbedding, Attention; opset 23). What differs:
1. Projections with the same input are one product (queries, keys and values; gate and up).
2. Only the last token gets logits, and only the last token is refined by the recursion; the keys of the refinement
   come from the features of all tokens (see `agent_forge.model.recursion`), so nothing is lost by that.
3. Adaptive halting is a ``Loop`` that ends when the last token halts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.onnx.ops import attention, rotary_embedding, symbolic

from agent_forge.model.attention import Attention
from agent_forge.model.block import CognateBlock, SwiGLU
from agent_forge.model.config import CognateConfig
from agent_forge.model.convolution import ShortConvolution
from agent_forge.model.gate import MemoryGate
from agent_forge.model.memory import DECAY, EmaMemory
from agent_forge.model.modeling import CognateForCausalLM
from agent_forge.model.norm import RMSNorm
from agent_forge.model.recursion import Recursion
from agent_forge.phases.edge.onnx_weights import Table

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
class _Pass:
    """What all layers of one pass share."""

    past: dict[str, Tensor]
    cos: Tensor
    sin: Tensor
    mask: Tensor
    last_mask: Tensor
    positions: Tensor
    present: dict[str, Tensor] = field(default_factory=dict)


class CognateStep(nn.Module):
    """The step graph of a Cognate model.

    Args:
        model: in evaluation mode, ternary layers frozen.
        projection: how products are made; that of the flavour.

    Raises:
        ValueError: the model has a memory that the graph has no form for.
    """

    frequencies: Tensor

    def __init__(self, model: CognateForCausalLM, projection: Projection) -> None:
        super().__init__()
        config = model.config
        if config.memory not in ("off", "ema"):
            raise ValueError(
                f'a memory "{config.memory}" has no ONNX form: it takes a different way through the graph at the end '
                'of each chunk; models with memory "off" or "ema" can be exported'
            )
        self.config = config
        self.table = Table(model.model.embed_tokens.weight.detach())
        tied = model.lm_head.weight is model.model.embed_tokens.weight
        self.head = None if tied else projection([model.lm_head])
        self.blocks = nn.ModuleList([_BlockStep(block, config, projection) for block in model.model.layers])
        self.norm = _Norm(model.model.norm)
        self.recursion = None if model.recursion is None else _RecursionStep(model, projection)
        exponent = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        self.register_buffer("frequencies", config.rope_theta**-exponent)

    def states(self) -> list[State]:
        """The past, in the order of the arguments and results of `forward`."""
        found = [State("past_positions", "present_positions", (1, "past"), "int64")]
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _BlockStep)
            found += block.states(index)
        if self.recursion is not None:
            found += _key_value_states(len(self.blocks), self.config)
        return found

    def sight(self) -> dict[str, int | None]:
        """How far back a token sees: what a runner may forget."""
        return {"window": self.config.sliding_window, "global_every": self.config.global_every}

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """One pass.

        Args:
            input_ids: int64 [1, T] new tokens.
            past: of `states`.

        Returns:
            Logits [1, vocab] of the token after the last, and the states after the new tokens.
        """
        names = self.states()
        shared = self._begin(input_ids, {state.input: tensor for state, tensor in zip(names, past, strict=True)})
        table = self.table()
        x, first = F.embedding(input_ids, table), None
        for index, block in enumerate(self.blocks):
            x, values = block(x, shared, index, first)
            first = values if first is None and self.config.value_residual else first
        x = self.norm(x)
        last = x[:, -1:] if self.recursion is None else self.recursion(x, shared, len(self.blocks))
        logits = F.linear(last[:, 0], table) if self.head is None else self.head(last[:, 0])
        cap = self.config.logit_soft_cap
        logits = cap * torch.tanh(logits / cap) if cap else logits
        return logits, *(shared.present[state.output] for state in names)

    def _begin(self, input_ids: Tensor, past: dict[str, Tensor]) -> _Pass:
        """Positions, angles and who sees whom."""
        before = past["past_positions"]
        start = F.pad(before, (1, 0), value=-1).amax(1, keepdim=True) + 1
        positions = start + torch.arange(input_ids.shape[1])[None]
        keys = torch.cat([before, positions], 1)
        angles = positions.float()[..., None] * self.frequencies
        query, key = positions[:, :, None], keys[:, None, :]
        visible = query - key < self.config.sliding_window
        if self.config.global_every:
            visible = visible | (key % self.config.global_every == 0)
        mask = (visible & (key <= query))[:, None]
        shared = _Pass(past, angles.cos(), angles.sin(), mask, mask[:, :, -1:], positions)
        shared.present["present_positions"] = keys
        return shared


class _Norm(nn.Module):
    weight: Tensor

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight.detach().clone())
        self.eps = norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return symbolic(
            "RMSNormalization",
            (x, self.weight),
            {"epsilon": self.eps, "axis": -1},
            dtype=x.dtype,
            shape=x.shape,
            version=OPSET,
        )


class _AttentionStep(nn.Module):
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
        self.q_norm = None if attention.q_norm is None else _Norm(attention.q_norm)
        self.k_norm = None if attention.k_norm is None else _Norm(attention.k_norm)
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

    def ready(self, x: Tensor, norm: _Norm | None, cos: Tensor, sin: Tensor) -> Tensor:
        """Normalised, rotated [1, heads, T, size]."""
        x = x if norm is None else norm(x)
        return rotary_embedding(x.transpose(1, 2), cos, sin)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Back to [1, T, hidden]."""
        mixed = attention(query, key, value, mask)[0]
        return self.output(mixed.transpose(1, 2).flatten(2))


class _SwiGluStep(nn.Module):
    def __init__(self, mlp: SwiGLU, projection: Projection) -> None:
        super().__init__()
        self.both = projection([mlp.gate_proj, mlp.up_proj])
        self.down = projection([mlp.down_proj])

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.both(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class _ConvolutionStep(nn.Module):
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


class _BlockStep(nn.Module):
    def __init__(self, block: CognateBlock, config: CognateConfig, projection: Projection) -> None:
        super().__init__()
        self.config, self.index = config, block.index
        self.attention_norm, self.mlp_norm = _Norm(block.attention_norm), _Norm(block.mlp_norm)
        width = config.short_convolution
        self.attention_conv = _ConvolutionStep(block.attention_conv) if block.attention_conv is not None else None
        self.mlp_conv = _ConvolutionStep(block.mlp_conv) if block.mlp_conv is not None else None
        self.attention = _AttentionStep(block.attention, config, projection, apart=False)
        self.mlp = _SwiGluStep(block.mlp, projection)
        self.width = width
        self.memory = _EmaStep(block.memory, projection) if isinstance(block.memory, EmaMemory) else None
        self.gate = _GateStep(block.gate, projection) if block.gate is not None else None

    def states(self, index: int) -> list[State]:
        found = _key_value_states(index, self.config)
        if self.width:
            shape = (1, self.width - 1, self.config.hidden_size)
            for name in ("attention", "mlp"):
                place = f"convolution.{index}.{name}"
                found.append(State(f"past_{place}", f"present_{place}", shape))
        if self.memory is not None:
            place = f"memory.{index}"
            found.append(State(f"past_{place}", f"present_{place}", (1, self.config.memory_size)))
        return found

    def forward(self, x: Tensor, shared: _Pass, index: int, first: Tensor | None) -> tuple[Tensor, Tensor]:
        h = self._convolved(self.attention_conv, self.attention_norm(x), shared, f"convolution.{index}.attention")
        attention = self.attention
        query, key, value = attention.split(h)
        value = value.transpose(1, 2)
        if attention.has_mix and first is not None:
            value = attention.value_mix[0] * value + attention.value_mix[1] * first
        key = attention.ready(key, attention.k_norm, shared.cos, shared.sin)
        keys, values = remember(shared, index, key, value)
        query = attention.ready(query, attention.q_norm, shared.cos, shared.sin)
        mixed = attention.attend(query, keys, values, shared.mask)
        if self.memory is not None:
            remembered = self.memory(h, shared, index)
            mixed = mixed + remembered if self.gate is None else self.gate(mixed, remembered)
        x = x + mixed
        h = self._convolved(self.mlp_conv, self.mlp_norm(x), shared, f"convolution.{index}.mlp")
        return x + self.mlp(h), value

    def _convolved(self, convolution: nn.Module | None, h: Tensor, shared: _Pass, place: str) -> Tensor:
        if convolution is None:
            return h
        h, shared.present[f"present_{place}"] = convolution(h, shared.past[f"past_{place}"])
        return h


class _EmaStep(nn.Module):
    """The averages of `agent_forge.model.memory`, all new tokens in one product."""

    def __init__(self, memory: EmaMemory, projection: Projection) -> None:
        super().__init__()
        self.down, self.up = projection([memory.down_proj]), projection([memory.up_proj])

    def forward(self, x: Tensor, shared: _Pass, index: int) -> Tensor:
        at = shared.positions.float()
        distance = at[:, :, None] - at[:, None, :]
        weights = torch.where(distance >= 0, DECAY ** distance.clamp(min=0), 0.0)
        # an empty past is all zeros, whatever it fades by
        faded = DECAY ** (at - at[:, :1] + 1)
        before = shared.past[f"past_memory.{index}"]
        averages = weights @ (self.down(x) * (1 - DECAY)) + faded[..., None] * before[:, None]
        shared.present[f"present_memory.{index}"] = averages[:, -1]
        return self.up(averages)


class _GateStep(nn.Module):
    def __init__(self, gate: MemoryGate, projection: Projection) -> None:
        super().__init__()
        self.hidden, self.output = projection([gate.hidden]), projection([gate.output])

    def forward(self, attended: Tensor, remembered: Tensor) -> Tensor:
        share = torch.sigmoid(self.output(F.silu(self.hidden(torch.cat([attended, remembered], -1)))))
        return remembered + share * (attended - remembered)


class _RecursionStep(nn.Module):
    """Refinement of the last token: unrolled, or a loop that the halting head ends."""

    def __init__(self, model: CognateForCausalLM, projection: Projection) -> None:
        super().__init__()
        recursion, config = model.recursion, model.config
        assert isinstance(recursion, Recursion)
        self.steps, self.micro_steps = config.recursion_steps, recursion.micro_steps
        self.attention_norm, self.mlp_norm = _Norm(recursion.attention_norm), _Norm(recursion.mlp_norm)
        self.state_norm = _Norm(recursion.state_norm)
        self.attention = _AttentionStep(recursion.attention, config, projection, apart=True)
        self.mlp = _SwiGluStep(recursion.mlp, projection)

    def forward(self, x: Tensor, shared: _Pass, slot: int) -> Tensor:
        key, value = self.attention.split_key_value(self.attention_norm(x))
        key = self.attention.ready(key, self.attention.k_norm, shared.cos, shared.sin)
        seen = remember(shared, slot, key, value.transpose(1, 2))
        x = x[:, -1:]
        table = shared.cos[:, -1:], shared.sin[:, -1:]
        y, z = x, torch.zeros_like(x)
        for _ in range(self.steps - 1):
            y, z = self.refined(x, y, z, seen, table, shared.last_mask)
        return y

    def refined(
        self,
        x: Tensor,
        y: Tensor,
        z: Tensor,
        seen: tuple[Tensor, Tensor],
        table: tuple[Tensor, Tensor],
        mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """One step, as `agent_forge.model.recursion.Recursion.forward`."""
        for _ in range(self.micro_steps):
            state = x + y + z
            z = self.state_norm(state + self._change(state, seen, table, mask))
        return y + self._change(y + z, seen, table, mask), z

    def _change(self, state: Tensor, seen: tuple[Tensor, Tensor], table: tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        h = self.attention.query(self.attention_norm(state))
        query = h.unflatten(-1, (self.attention.heads, self.attention.size))
        query = self.attention.ready(query, self.attention.q_norm, *table)
        attended = self.attention.attend(query, *seen, mask)
        return attended + self.mlp(self.mlp_norm(state + attended))


def remember(shared: _Pass, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """All keys and values [1, heads, S, size] of a slot, these ones last; they go out as its state."""
    found = []
    for name, new in (("key", key), ("value", value)):
        joined = torch.cat([shared.past[f"past_key_values.{slot}.{name}"], new], 2)
        shared.present[f"present.{slot}.{name}"] = joined
        found.append(joined)
    return found[0], found[1]


def _key_value_states(slot: int, config: CognateConfig) -> list[State]:
    shape = (1, int(config.num_key_value_heads or 0), "past", config.head_size)
    return [State(f"past_key_values.{slot}.{name}", f"present.{slot}.{name}", shape) for name in ("key", "value")]
