"""A memory that learns at test time: `AssociativeMemory`, the memory of Titans in chunk-parallel form.

Behrouz, Zhong, Mirrokni 2024 (Titans, arXiv:2501.00663, sections 3.1 and 3.2). Per sample and head a matrix M
that should map keys to values; the surprise of a token is the gradient of ‖M·k − v‖²:

    S_t = η_t·S_{t−1} − θ_t·∇‖M·k_t − v_t‖²      M_t = (1 − α_t)·M_{t−1} + S_t

with momentum η, step θ and forgetting α computed from the token. Inside a chunk all gradients are taken at the
weights of its start, so both recurrences are linear and only their closed form at the chunk's end is computed.
What differs:
1. M is one matrix (the paper tries networks of depth 1 to 4), and starts as zero, so that nothing is read before
   something was written.
2. A token reads only chunks that are closed: M as it was at the start of its own chunk. The paper's chunk is cut
   from the row, ours from the document, so packed and padded text gives the same numbers as the text alone.
3. Stability by construction: q and k have unit norm; θ < `STEP_CAP`; each token's error is soft-clamped to norm
   `ERROR_CAP`; a chunk's step is divided by the Frobenius norm of its gain Σ 2·c_j·k_j·k_jᵀ where that exceeds
   one, because many equal keys in one chunk would each correct the same error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.attention import TokenLayout

STEP_CAP = 0.5
ERROR_CAP = 4.0
NEGLIGIBLE_LOG = -40.0
INITIAL_RATES = (-2.0, 0.0, -7.0)
"""Biases of the sigmoids of momentum (0.12), step (half of the cap) and forgetting (0.1% a token)."""


@dataclass
class Writes:
    """What tokens write: key and value [B, T, H, d], and the logits of momentum, step and forgetting [B, T, H]."""

    key: Tensor
    value: Tensor
    momentum: Tensor
    step: Tensor
    forget: Tensor

    def apply(self, change: Any) -> Writes:
        """The same change on each."""
        return Writes(*(change(x) for x in (self.key, self.value, self.momentum, self.step, self.forget)))


@dataclass
class Grid:
    """Tokens in chunks of their document.

    Attributes:
        index: [B or 1, N·C] token in each slot (clamped where there is none).
        filled: [B or 1, N, C] whether there is one.
        fresh: [B or 1, N] whether a document starts here.
        slot: [B or 1, T] slot of each token (clamped for padding).
        present: [B or 1, T] whether the token is in a slot.
    """

    index: Tensor
    filled: Tensor
    fresh: Tensor
    slot: Tensor
    present: Tensor

    def arrange(self, x: Tensor) -> Tensor:
        """[B, T, ...] → [B, N, C, ...]; zero in empty slots."""
        forth, back = self._both(x.shape[0])
        return _Rearrange.apply(x, forth, back).unflatten(1, tuple(self.filled.shape[1:]))

    def restore(self, x: Tensor) -> Tensor:
        """[B, N, C, ...] → [B, T, ...]; zero for padding."""
        forth, back = self._both(x.shape[0])
        return _Rearrange.apply(x.flatten(1, 2), back, forth)

    def _both(self, batch: int) -> tuple[Places, Places]:
        filled = self.filled.flatten(1)
        return _places(self.index, filled, self.slot.shape[1], batch), _places(
            self.slot, self.present, filled.shape[1], batch
        )


Places: TypeAlias = tuple[Tensor, Tensor | None]
"""Rows [B, n] among all B·m, and which of them are real (None = all)."""


def _places(index: Tensor, real: Tensor, length: int, batch: int) -> Places:
    offsets = torch.arange(batch, device=index.device)[:, None] * length
    return index + offsets, None if bool(real.all()) else real.expand(batch, -1)


class _Rearrange(torch.autograd.Function):
    """Rows to other places. Its gradient is rows back again, not the slow sum that indexing would make."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forth: Places, back: Places) -> Tensor:
        ctx.forth, ctx.back = forth, back
        return _placed(x, forth)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _placed(gradient, ctx.back), None, None


def _placed(x: Tensor, places: Places) -> Tensor:
    index, real = places
    out = x.flatten(0, 1).index_select(0, index.flatten()).unflatten(0, tuple(index.shape))
    return out if real is None else out.masked_fill_(~real.view(*real.shape, *[1] * (out.dim() - 2)), 0)


def associate(
    query: Tensor,
    writes: Writes,
    layout: TokenLayout,
    *,
    chunk: int,
    state: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Reads and writes the memory over a text.

    Args:
        query: [B, T, H, d], unit norm.
        writes: of the same tokens; keys of unit norm.
        layout: where the tokens stand. Where a state is given, the text starts at the start of a chunk.
        chunk: tokens per chunk.
        state: M and S [B, H, d, d] after the chunks before; None = zero.

    Returns:
        What each token reads [B, T, H, d], and M and S after the last closed chunk.
    """
    batch, _, heads, size = query.shape
    grid = chunk_grid(layout, chunk)
    # 1. slots of chunks, heads before chunks' tokens: [B, N, H, C, ...]
    queries, key, value = (grid.arrange(x).transpose(2, 3) for x in (query, writes.key, writes.value))
    rates = [grid.arrange(x).transpose(2, 3) for x in (writes.momentum, writes.step, writes.forget)]
    # 2. what all chunks do at their ends, but for the errors
    ending = chunk_ending(key, F.logsigmoid(rates[0]), rates[1], F.logsigmoid(-rates[2]))
    closed = grid.filled.all(-1)[:, :, None, None, None]
    fresh = grid.fresh[:, :, None, None, None]
    memory, momentum = state if state is not None else (query.new_zeros(batch, heads, size, size),) * 2
    reads = []
    # 3. from chunk to chunk: read, then write. Unbound before the loop: the gradient of x[:, n] is as large as x
    chunks = zip(*(x.unbind(1) for x in (queries, key, value, closed, fresh, *ending)), strict=True)
    for q, k, v, is_closed, is_fresh, *now in chunks:
        memory, momentum = (torch.where(is_fresh, 0.0, x) for x in (memory, momentum))
        reads.append(q @ memory.mT)
        next_memory, next_momentum = written(memory, momentum, k, v, ChunkEnding(*now))
        # 4. a chunk that is still open has written nothing yet
        memory = torch.where(is_closed, next_memory, memory)
        momentum = torch.where(is_closed, next_momentum, momentum)
    return grid.restore(torch.stack(reads, 1).transpose(2, 3)), (memory, momentum)


def chunk_grid(layout: TokenLayout, chunk: int) -> Grid:
    """Chunks of ``chunk`` tokens, counted from the start of each document; padding is in none."""
    positions, valid = layout.positions, layout.valid
    rows, length = positions.shape if valid is None else valid.shape
    device = positions.device
    positions = positions.expand(rows, -1)
    present = torch.ones(rows, length, dtype=torch.bool, device=device) if valid is None else valid
    first = present & (present.cumsum(1) == 1)
    starts = present & ((positions % chunk == 0) | first)
    number = starts.long().cumsum(1) - 1
    count = max(1, int(number.max()) + 1)
    slot = (number.clamp(min=0) * chunk + positions % chunk).masked_fill(~present, count * chunk)
    token = torch.arange(length, device=device).expand(rows, -1)
    index = torch.full((rows, count * chunk + 1), length, device=device).scatter(1, slot, token)[:, :-1]
    filled = (index < length).view(rows, count, chunk)
    index = index.clamp(max=length - 1)
    fresh = filled[..., 0] & (positions.gather(1, index).view(rows, count, chunk)[..., 0] == 0)
    return Grid(index, filled, fresh, slot.clamp(max=count * chunk - 1), present)


class AssociativeMemory(nn.Module):
    """Keys, values, queries and rates of the memory, and its way back to the stream.

    Args:
        hidden_size: channels of the stream.
        memory_size: channels of all heads together.
        heads: independent memories.
        chunk: tokens per write.
    """

    def __init__(self, hidden_size: int, memory_size: int, heads: int, chunk: int) -> None:
        super().__init__()
        self.heads, self.chunk = heads, chunk
        self.q_proj = nn.Linear(hidden_size, memory_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, memory_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, memory_size, bias=False)
        self.rates = MemoryRates(hidden_size, heads)
        self.up_proj = nn.Linear(memory_size, hidden_size, bias=False)
        # the memory starts silent whatever other outputs do
        self.up_proj.starts_as = "zero"  # type: ignore[assignment]

    def forward(self, x: Tensor, layout: TokenLayout, states: dict[str, Any] | None = None) -> Tensor:
        """Reads for each token of ``x`` [B, T, hidden], then writes it; ``states`` of the cache slot."""
        split = (self.heads, -1)
        query, key, value = (proj(x).float().unflatten(-1, split) for proj in (self.q_proj, self.k_proj, self.v_proj))
        momentum, step, forget = self.rates(x)
        length = x.shape[1]
        with torch.autocast(x.device.type, enabled=False):
            query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
            writes = Writes(key, value, momentum, step, forget)
            past = None if states is None else states.get("memory")
            if past is not None:
                # tokens of the open chunk come again, as if the text began there
                query = torch.cat([past["key"], query], 1)
                writes = Writes(*(torch.cat([past[name], new], 1) for name, new in vars(writes).items()))
                layout = _joined(past, layout, x.shape[0])
            state = None if past is None else (past["memory"], past["surprise"])
            if state is not None and length == 1 and not self._closes(layout):
                read = torch.einsum("bhk,bhvk->bhv", query[:, -1], state[0])[:, None]
            else:
                read, state = associate(query, writes, layout, chunk=self.chunk, state=state)
            if states is not None:
                states["memory"] = self._open_chunk(writes, layout, state)
        return self.up_proj(read[:, -length:].flatten(2).to(x.dtype))

    def _closes(self, layout: TokenLayout) -> bool:
        """Whether the last token closes a chunk in any row."""
        last = layout.positions[:, -1] % self.chunk == self.chunk - 1
        return bool((last if layout.valid is None else last & layout.valid[:, -1]).any())

    def _open_chunk(self, writes: Writes, layout: TokenLayout, state: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The state that decoding goes on with: closed chunks in M and S, and the tokens of the open one."""
        batch, length = writes.key.shape[:2]
        positions = layout.positions.expand(batch, -1)
        valid = torch.ones_like(positions, dtype=torch.bool) if layout.valid is None else layout.valid
        upcoming = torch.where(valid, positions, -1).amax(1, keepdim=True) + 1
        still_open = valid & (positions >= upcoming - upcoming % self.chunk)
        count = min(length, int((length - still_open.int().argmax(1)).masked_fill(~still_open.any(1), 0).max()))
        kept = vars(writes.apply(lambda x: x[:, length - count :]))
        places = {"positions": positions[:, length - count :], "valid": still_open[:, length - count :]}
        return {**kept, **places, "memory": state[0], "surprise": state[1]}


class MemoryRates(nn.Module):
    """Logits of momentum, step and forgetting of each head, from the token."""

    parameter_role = "memory"

    def __init__(self, hidden_size: int, heads: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3 * heads, hidden_size))
        self.bias = nn.Parameter(torch.tensor(INITIAL_RATES).repeat_interleave(heads))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, hidden] → three times [B, T, heads], in fp32: small differences of forgetting add up."""
        with torch.autocast(x.device.type, enabled=False):
            first, second, third = F.linear(x.float(), self.weight.float(), self.bias.float()).chunk(3, -1)
        return first, second, third


class ChunkEnding(NamedTuple):
    """What a chunk does to the old state at its end, but for its errors. Weights [..., C, 1], factors [..., 1, 1]."""

    into_momentum: Tensor
    """Weight of each token's error in S."""
    into_memory: Tensor
    keep_memory: Tensor
    """Factor of the old memory in the new one."""
    keep_momentum: Tensor
    across: Tensor
    """Factor of the old momentum in the new memory."""


def chunk_ending(key: Tensor, momentum_log: Tensor, step: Tensor, keep_log: Tensor) -> ChunkEnding:
    """Closed form of both recurrences at the end of a chunk.

    Args:
        key: [..., C, d], unit norm.
        momentum_log: [..., C] logarithms of η: products of many factors below one.
        step: [..., C] logits of θ.
        keep_log: [..., C] logarithms of 1 − α.
    """
    momentum_log, keep_log = momentum_log.cumsum(-1), keep_log.cumsum(-1)
    size = torch.sigmoid(step) * STEP_CAP
    # S at t holds token j with Π η over (j, t]; M at the end holds S at t with Π (1 − α) over (t, end]
    later = torch.ones(step.shape[-1], step.shape[-1], dtype=torch.bool, device=step.device).tril()
    difference = momentum_log[..., :, None] - momentum_log[..., None, :]
    # what is left of a token after e^-40 would be denormal a few factors on, and those are slow on a CPU
    difference = difference.masked_fill(~later | (difference < NEGLIGIBLE_LOG), float("-inf"))
    survives = (keep_log[..., -1:] - keep_log).exp()
    into_memory = size * (survives[..., :, None] * difference.exp()).sum(-2)
    into_momentum = size * difference[..., -1, :].exp()
    doubled = 2 * _gain_scale(key, into_memory)
    return ChunkEnding(
        into_momentum=into_momentum[..., None] * doubled,
        into_memory=into_memory[..., None] * doubled,
        keep_memory=keep_log[..., -1, None, None].exp(),
        keep_momentum=momentum_log[..., -1, None, None].clamp(min=NEGLIGIBLE_LOG).exp(),
        across=(survives * momentum_log.clamp(min=NEGLIGIBLE_LOG).exp()).sum(-1)[..., None, None],
    )


def written(memory: Tensor, momentum: Tensor, key: Tensor, value: Tensor, ending: ChunkEnding) -> tuple[Tensor, Tensor]:
    """M and S [..., d, d] after a chunk with keys and values [..., C, d]."""
    error = _soft_clamp(key @ memory.mT - value)
    next_memory = ending.keep_memory * memory + ending.across * momentum - (error * ending.into_memory).mT @ key
    next_momentum = ending.keep_momentum * momentum - (error * ending.into_momentum).mT @ key
    return next_memory, next_momentum


def _gain_scale(key: Tensor, weights: Tensor) -> Tensor:
    """[..., 1, 1]: one over the Frobenius norm of Σ 2·c·k·kᵀ where that exceeds one."""
    gain = (key * (2 * weights[..., None])).mT @ key
    norm = gain.square().sum((-1, -2), keepdim=True)
    return norm.clamp(min=1.0).rsqrt()


def _soft_clamp(error: Tensor) -> Tensor:
    """Bounds the norm of each row by `ERROR_CAP`, and hardly changes small ones."""
    return error * (1 + error.square().sum(-1, keepdim=True) / ERROR_CAP**2).rsqrt()


def _joined(past: dict[str, Tensor], layout: TokenLayout, batch: int) -> TokenLayout:
    positions = torch.cat([past["positions"], layout.positions.expand(batch, -1)], 1)
    if layout.valid is None and bool(past["valid"].all()):
        return TokenLayout(positions)
    now = torch.ones_like(positions[:, past["valid"].shape[1] :], dtype=torch.bool)
    return TokenLayout(positions, valid=torch.cat([past["valid"], now if layout.valid is None else layout.valid], 1))
