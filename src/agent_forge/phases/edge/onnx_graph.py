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

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.block import CognateBlock
from agent_forge.model.config import CognateConfig
from agent_forge.model.memory import EmaMemory
from agent_forge.model.modeling import CognateForCausalLM
from agent_forge.phases.edge.onnx_layers import (
    AttentionStep,
    ConvolutionStep,
    EmaStep,
    GateStep,
    Norm,
    Pass,
    Projection,
    State,
    SwiGluStep,
    key_value_states,
    remember,
)
from agent_forge.phases.edge.onnx_recursion import RecursionStep
from agent_forge.phases.edge.onnx_weights import Table

Head = Callable[[Tensor, Table], Tensor]
"""Makes logits [1, rows] of features [1, width] and a table."""


class CognateStep(nn.Module):
    """The step graph of a Cognate model.

    Args:
        model: in evaluation mode, ternary layers frozen.
        projection: how products are made; that of the flavour.
        head: how logits are made.
        features: whether what the head reads comes out, too: its mean over the new tokens; with a recursion, which
            refines the last token alone, that of the last token.

    Raises:
        ValueError: the model has a memory that the graph has no form for.
    """

    frequencies: Tensor

    def __init__(
        self,
        model: CognateForCausalLM,
        projection: Projection,
        head: Callable[[Tensor, Table], Tensor],
        *,
        features: bool = False,
    ) -> None:
        super().__init__()
        config = model.config
        if config.memory not in ("off", "ema"):
            raise ValueError(
                f'a memory "{config.memory}" has no ONNX form: it takes a different way through the graph at the end '
                'of each chunk; models with memory "off" or "ema" can be exported'
            )
        self.config, self.features = config, features
        self.table = Table(model.model.embed_tokens.weight.detach())
        tied = model.lm_head.weight is model.model.embed_tokens.weight
        self.head_table = None if tied else Table(model.lm_head.weight.detach())
        self.head = head
        self.blocks = nn.ModuleList([_BlockStep(block, config, projection) for block in model.model.layers])
        self.norm = Norm(model.model.norm)
        self.recursion = None if model.recursion is None else RecursionStep(model, projection)
        exponent = torch.arange(0, config.head_size, 2, dtype=torch.float32) / config.head_size
        self.register_buffer("frequencies", config.rope_theta**-exponent)

    def states(self) -> list[State]:
        """The past, in the order of the arguments and results of `forward`."""
        found = [State("past_positions", "present_positions", (1, "past"), "int64")]
        for index, block in enumerate(self.blocks):
            assert isinstance(block, _BlockStep)
            found += block.states(index)
        if self.recursion is not None:
            found += key_value_states(len(self.blocks), self.config)
        return found

    @property
    def one_by_one(self) -> bool:
        """Whether features are those of the last token alone."""
        return self.recursion is not None

    def sight(self) -> dict[str, int | None]:
        """How far back a token sees: what a runner may forget."""
        return {"window": self.config.sliding_window, "global_every": self.config.global_every}

    def forward(self, input_ids: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """One pass.

        Args:
            input_ids: int64 [1, T] new tokens.
            past: of `states`.

        Returns:
            Logits [1, vocab] of the token after the last, the features [1, hidden] if they are wanted, and the states
            after the new tokens.
        """
        names = self.states()
        shared = self._begin(input_ids, {state.input: tensor for state, tensor in zip(names, past, strict=True)})
        x, first = self.table.chosen(input_ids), None
        for index, block in enumerate(self.blocks):
            x, values = block(x, shared, index, first)
            first = values if first is None and self.config.value_residual else first
        x = self.norm(x)
        last = x[:, -1:] if self.recursion is None else self.recursion(x, shared, len(self.blocks))
        logits = self.head(last[:, 0], self.table if self.head_table is None else self.head_table)
        cap = self.config.logit_soft_cap
        logits = cap * torch.tanh(logits / cap) if cap else logits
        features = [x.mean(1) if self.recursion is None else last[:, 0]] if self.features else []
        return logits, *features, *(shared.present[state.output] for state in names)

    def _begin(self, input_ids: Tensor, past: dict[str, Tensor]) -> Pass:
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
        shared = Pass(past, angles.cos(), angles.sin(), mask, positions)
        shared.present["present_positions"] = keys
        return shared


class _BlockStep(nn.Module):
    def __init__(self, block: CognateBlock, config: CognateConfig, projection: Projection) -> None:
        super().__init__()
        self.config, self.index = config, block.index
        self.attention_norm, self.mlp_norm = Norm(block.attention_norm), Norm(block.mlp_norm)
        width = config.short_convolution
        self.attention_conv = ConvolutionStep(block.attention_conv) if block.attention_conv is not None else None
        self.mlp_conv = ConvolutionStep(block.mlp_conv) if block.mlp_conv is not None else None
        self.attention = AttentionStep(block.attention, config, projection, apart=False)
        self.mlp = SwiGluStep(block.mlp, projection)
        self.width = width
        self.memory = EmaStep(block.memory, projection) if isinstance(block.memory, EmaMemory) else None
        self.gate = GateStep(block.gate, projection) if block.gate is not None else None

    def states(self, index: int) -> list[State]:
        found = key_value_states(index, self.config)
        if self.width:
            shape = (1, self.width - 1, self.config.hidden_size)
            for name in ("attention", "mlp"):
                place = f"convolution.{index}.{name}"
                found.append(State(f"past_{place}", f"present_{place}", shape))
        if self.memory is not None:
            place = f"memory.{index}"
            found.append(State(f"past_{place}", f"present_{place}", (1, self.config.memory_size)))
        return found

    def forward(self, x: Tensor, shared: Pass, index: int, first: Tensor | None) -> tuple[Tensor, Tensor]:
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

    def _convolved(self, convolution: nn.Module | None, h: Tensor, shared: Pass, place: str) -> Tensor:
        if convolution is None:
            return h
        h, shared.present[f"present_{place}"] = convolution(h, shared.past[f"past_{place}"])
        return h
