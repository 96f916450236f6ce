"""The decode cache: bounded by the attention window plus global tokens, for every layer one slot.

A slot holds what one attention needs of the past: rotated keys, values, the last inputs of the short
convolutions and the state of the memory. The recursion attends to the backbone's features only, so it has
one slot however many steps it takes. Keys and values lie in buffers that grow by doubling, because a
``torch.cat`` per token and layer would copy the whole past each time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from agent_forge.model.attention import TokenLayout

PRUNE_SLACK = 64
"""Tokens kept beyond the bound before the cache is packed: packing each token would cost more than it saves."""


class CacheSlot(CacheLayerMixin):
    """Keys, values and small states of one attention layer."""

    is_croppable = True
    is_compileable = False

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self.tokens_seen = 0
        self.states: dict[str, Any] = {}

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Makes empty buffers of the right shape, dtype and device."""
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends [B, H, T, D] and gives all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        self.tokens_seen += key_states.shape[2]
        self.keys = _append(self.keys, key_states, self.length)
        self.values = _append(self.values, value_states, self.length)
        self.length += key_states.shape[2]
        return self.keys[:, :, : self.length], self.values[:, :, : self.length]

    def select(self, kept: Tensor) -> None:
        """Keeps the tokens at indices ``kept`` [B or 1, n]."""
        if self.is_initialized and self.keys is not None and self.values is not None:
            self.keys, self.values = _gathered(self.keys, kept), _gathered(self.values, kept)
            self.length = kept.shape[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys that the next pass will see."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens that went in, pruned ones included."""
        return self.tokens_seen

    def get_max_length(self) -> int:
        """No maximum: old tokens make room."""
        return -1

    def reset(self) -> None:
        """Forgets everything."""
        self.keys = self.values = None
        self.is_initialized, self.length, self.tokens_seen, self.states = False, 0, 0, {}

    def map_rows(self, change: Any) -> None:
        """Applies ``change`` to the batch axis (the first) of every tensor."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = change(self.keys), change(self.values)
        self.states = {name: _map_tensors(state, change) for name, state in self.states.items()}


class CognateCache(Cache):
    """One `CacheSlot` per attention, and where the cached tokens stand (the same for all slots).

    Args:
        num_slots: attentions of the model: blocks, plus one for the recursion.
        window: sliding window of the attention.
        global_every: spacing of global tokens; 0 = none.
    """

    def __init__(self, num_slots: int, window: int, global_every: int) -> None:
        super().__init__(layers=[CacheSlot() for _ in range(num_slots)])
        self.window, self.global_every = window, global_every
        self.layout: TokenLayout | None = None
        self.num_pruned = 0

    def extend(self, queries: TokenLayout) -> TokenLayout:
        """Notes the tokens of this pass; gives the layout of all keys, cached ones first."""
        if queries.documents is not None:
            raise ValueError("document_ids cannot be used together with a cache: decode one document per row")
        self.layout = queries if self.layout is None else _joined(self.layout, queries)
        return self.layout

    def next_position(self) -> Tensor | int:
        """Position of the next token: 0, or [B or 1, 1]."""
        if self.layout is None:
            return 0
        positions, valid = self.layout.positions, self.layout.valid
        if valid is None:
            return positions[:, -1:] + 1
        return torch.where(valid, positions, -1).amax(1, keepdim=True) + 1

    def prune(self) -> None:
        """Drops tokens that no later token can see; call after a pass."""
        if self.layout is None or self.layout.positions.shape[1] <= self.window + PRUNE_SLACK:
            return
        positions, valid = self.layout.positions, self.layout.valid
        keep = positions > self.next_position() - self.window
        if self.global_every:
            keep = keep | (positions % self.global_every == 0)
        if valid is not None:
            keep = keep & valid
        count = int(keep.sum(1).max())
        if positions.shape[1] - count < PRUNE_SLACK:
            return
        # a stable sort of "dropped" puts kept tokens first, in their order
        kept = (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, :count]
        full = keep.gather(1, kept)
        self.num_pruned += positions.shape[1] - count
        self.layout = TokenLayout(
            positions.expand(kept.shape[0], -1).gather(1, kept), valid=None if bool(full.all()) else full
        )
        for slot in self.layers:
            slot.select(kept)  # type: ignore[union-attr]

    def reset(self) -> None:
        """Forgets everything."""
        super().reset()
        self.layout, self.num_pruned = None, 0

    def crop(self, tokens_to_remove: int) -> None:
        """Removes the newest tokens (a negative number counts the same), where that can be exact.

        Raises:
            ValueError: after pruning, or when convolutions or a memory have taken the tokens in.
        """
        count = abs(tokens_to_remove)
        if count == 0 or self.layout is None:
            return
        if not self.is_croppable or self.num_pruned:
            raise ValueError("this cache cannot be cropped: pruned tokens and memory states do not come back")
        end = self.layout.positions.shape[1] - count
        valid = self.layout.valid
        self.layout = TokenLayout(self.layout.positions[:, :end], valid=None if valid is None else valid[:, :end])
        for slot in self.layers:
            slot.length = end  # type: ignore[union-attr]
            slot.tokens_seen -= count  # type: ignore[union-attr]

    @property
    def is_croppable(self) -> bool:
        """True while only keys and values are held."""
        return not any(slot.states for slot in self.layers)  # type: ignore[union-attr]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Takes rows ``beam_idx`` (beam search)."""
        self._map_rows(lambda x: x.index_select(0, beam_idx.to(x.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row."""
        self._map_rows(lambda x: x.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps rows ``indices``."""
        self._map_rows(lambda x: x[indices.to(x.device)])

    def _map_rows(self, change: Any) -> None:
        for slot in self.layers:
            slot.map_rows(change)  # type: ignore[union-attr]
        if self.layout is not None:
            positions, valid = self.layout.positions, self.layout.valid
            # one row of positions stands for all rows
            positions = positions if positions.shape[0] == 1 else change(positions)
            self.layout = TokenLayout(positions, valid=None if valid is None else change(valid))


def _append(buffer: Tensor, states: Tensor, length: int) -> Tensor:
    needed = length + states.shape[2]
    if torch.is_grad_enabled() and (states.requires_grad or buffer.requires_grad):
        return torch.cat([buffer[:, :, :length], states], 2)
    if length == 0 and buffer.shape[2] == 0:
        # the first pass is often the whole text: no copy, and no spare room before a second one asks for it
        return states
    if needed > buffer.shape[2]:
        larger = states.new_empty(states.shape[0], states.shape[1], max(64, 2 * needed), states.shape[3])
        larger[:, :, :length] = buffer[:, :, :length]
        buffer = larger
    buffer[:, :, length:needed] = states
    return buffer


def _gathered(x: Tensor, index: Tensor) -> Tensor:
    index = index.expand(x.shape[0], -1)
    return x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _joined(old: TokenLayout, new: TokenLayout) -> TokenLayout:
    rows = max(old.positions.shape[0], new.positions.shape[0])
    positions = torch.cat([old.positions.expand(rows, -1), new.positions.expand(rows, -1)], 1)
    if old.valid is None and new.valid is None:
        return TokenLayout(positions)
    batch = next(x.shape[0] for x in (old.valid, new.valid) if x is not None)
    parts = [
        part.valid
        if part.valid is not None
        else torch.ones(batch, part.positions.shape[1], dtype=torch.bool, device=positions.device)
        for part in (old, new)
    ]
    return TokenLayout(positions, valid=torch.cat([part.expand(batch, -1) for part in parts], 1))


def _map_tensors(state: Any, change: Any) -> Any:
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {name: _map_tensors(value, change) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_map_tensors(value, change) for value in state)
    return state
