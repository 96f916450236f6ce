"""The associative memory of `agent_forge.model.titans` in a graph: a ``Loop`` runs once for each chunk that closes.

Its states have fixed shapes: M and S after the last closed chunk, and what each of the last ``chunk`` tokens writes,
the newest last. Those of the open chunk are among them, since every chunk begins where its position is a multiple of
``chunk``; how many they are follows from the position, so a runner may forget what the window no longer sees.

A prompt closes several chunks, most single tokens none: then the loop does not run, and a token costs its projections,
one product with M and the copy of the last tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._higher_order_ops.while_loop import while_loop_op

from agent_forge.model.titans import AssociativeMemory, chunk_ending, written
from agent_forge.phases.edge.onnx_layers import Pass, Projection, State

_WRITES = ("key", "value", "momentum", "step", "forget")
"""What a token writes, side by side in one row: fields of `agent_forge.model.titans.Writes`."""


class TitansStep(nn.Module):
    """The memory of one block.

    Args:
        memory: of the model.
        projection: how products are made.
    """

    rates: Tensor
    bias: Tensor

    def __init__(self, memory: AssociativeMemory, projection: Projection) -> None:
        super().__init__()
        self.heads, self.chunk, self.width = memory.heads, memory.chunk, memory.q_proj.out_features
        self.all = projection([memory.q_proj, memory.k_proj, memory.v_proj])
        self.up = projection([memory.up_proj])
        self.register_buffer("rates", memory.rates.weight.detach().T.contiguous())
        self.register_buffer("bias", memory.rates.bias.detach().clone())

    def states(self, index: int) -> list[State]:
        """M, S and the last tokens."""
        size = self.width // self.heads
        matrix, rows = (1, self.heads, size, size), (1, self.chunk, 2 * self.width + 3 * self.heads)
        shapes = {"memory": matrix, "surprise": matrix, "tokens": rows}
        return [State(f"past_memory.{index}.{x}", f"present_memory.{index}.{x}", shape) for x, shape in shapes.items()]

    def forward(self, x: Tensor, shared: Pass, index: int) -> Tensor:
        """See `agent_forge.model.titans.AssociativeMemory.forward`; the states are those of block ``index``."""
        past, length = [shared.past[state.input] for state in self.states(index)], x.shape[1]
        made = self.all(x).unflatten(-1, (3 * self.heads, -1))
        # queries and keys have unit norm
        query, key = F.normalize(made[:, :, : 2 * self.heads], dim=-1).flatten(2).chunk(2, -1)
        new = torch.cat([key, made[:, :, 2 * self.heads :].flatten(2), x @ self.rates + self.bias], -1)
        tokens = torch.cat([past[2], new], 1)
        # tokens of the first chunk that lie in the past, and chunks that close now
        begun = shared.positions[0, 0] % self.chunk
        closing = torch.div(begun + length, self.chunk, rounding_mode="floor")
        memory, surprise, early = self._closed(past[0], past[1], query, tokens, begun, closing)
        slot = begun + torch.arange(length)
        # tokens of the open chunk read M as it is at last
        is_open = (slot >= closing * self.chunk)[:, None]
        read = torch.where(is_open, self._read(query, memory), early.index_select(1, slot))
        for state, tensor in zip(self.states(index), (memory, surprise, tokens[:, length:]), strict=True):
            shared.present[state.output] = tensor
        return self.up(read)

    def _closed(
        self, memory: Tensor, surprise: Tensor, query: Tensor, tokens: Tensor, begun: Tensor, closing: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """M and S after the chunks that close, and what their tokens read, slot by slot [1, T + chunk, width].

        The loop's body may not reach out of itself, so all that it uses goes in as arguments.
        """

        def goes_on(number: Tensor, *rest: Tensor) -> Tensor:
            return number < rest[-1]

        def close(
            number: Tensor,
            memory: Tensor,
            surprise: Tensor,
            reads: Tensor,
            query: Tensor,
            tokens: Tensor,
            *rest: Tensor,
        ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            slot = number * self.chunk + torch.arange(self.chunk)
            place = slot - rest[0]
            # slots of the past have no query; what is read there is nobody's
            read = self._read(query.index_select(1, place.clamp(min=0)), memory)
            reads = reads.index_put((torch.zeros_like(slot), slot), read[0])
            memory, surprise = self._write(memory, surprise, tokens.index_select(1, place + self.chunk))
            return number + 1, memory, surprise, reads

        none = torch.zeros(1, query.shape[1] + self.chunk, self.width, dtype=query.dtype)
        start = (torch.zeros((), dtype=torch.long), memory, surprise, none)
        found = while_loop_op(goes_on, close, start, (query, tokens, begun, closing))  # type: ignore[arg-type]
        return found[1], found[2], found[3]

    def _read(self, query: Tensor, memory: Tensor) -> Tensor:
        """[1, n, width] → the same."""
        return (self._by_head(query) @ memory.mT).transpose(1, 2).flatten(2)

    def _write(self, memory: Tensor, surprise: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """M and S after the tokens [1, chunk, …] of a chunk."""
        key, value, rates = tokens.split([self.width, self.width, 3 * self.heads], -1)
        momentum, step, forget = rates.transpose(1, 2).chunk(3, 1)
        key = self._by_head(key)
        ending = chunk_ending(key, log_sigmoid(momentum), step, log_sigmoid(-forget))
        return written(memory, surprise, key, self._by_head(value), ending)

    def _by_head(self, x: Tensor) -> Tensor:
        """[1, n, width] → [1, heads, n, size]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def torch_state(held: Mapping[str, Tensor], name: str, shape: Sequence[int]) -> Tensor:
    """What `AssociativeMemory` holds in its cache slot, as the state ``name`` of the graph.

    Args:
        held: the state "memory" of a slot.
        name: "memory", "surprise" or "tokens".
        shape: of the state.
    """
    if name != "tokens":
        return held[name]
    rows = torch.cat([held[each].flatten(2) for each in _WRITES], -1)
    return F.pad(rows, (0, 0, shape[1] - rows.shape[1], 0))


def log_sigmoid(x: Tensor) -> Tensor:
    """log σ(x). The exporter's own log(σ(x)) is −inf for large −x, and loses the last digits of small forgetting.

    The logarithm of 1 + u as the runtime's fp32 has it, times the u that was meant over the one that was added.
    """
    small = torch.exp(-x.abs())
    rounded = 1 + small
    added = rounded - 1
    return x.clamp(max=0) - torch.where(added > 0, torch.log(rounded) * small / added, small)
