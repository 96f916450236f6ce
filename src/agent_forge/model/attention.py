"""Causal attention in a sliding window, with global tokens, for packed documents, at O(T·window) memory.

Rotary positions: Su et al. 2021 (arXiv:2104.09864). Window with global tokens: Beltagy et al. 2020
(arXiv:2004.05150, section 3.1). RMSNorm on queries and keys: Henry et al. 2020 (arXiv:2010.04245).

What differs:
1. A token is global when its position in its document is divisible by ``global_every``; it may be seen
   by every later token of the document, but itself looks no further back than others (causal).
2. Everything depends on positions inside a document, so a document packed behind another, or padded on
   the left, gives the same numbers as alone.
3. Up to one window the plain fused kernel runs, with a mask only if there are documents or padding.
   Beyond, queries go in blocks of one window: each block sees itself, the block before, and globals.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.blocked_attention import blocked_attention
from agent_forge.model.norm import RMSNorm


@dataclass
class TokenLayout:
    """Where each token of a batch stands.

    Attributes:
        positions: [B or 1, T] position inside its document.
        documents: [B, T] number of the document, −1 = padding; None = one document per row.
        valid: [B, T] False for padding; None = no padding.
    """

    positions: Tensor
    documents: Tensor | None = None
    valid: Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """True when every row is one document without padding."""
        return self.documents is None and self.valid is None


def document_positions(documents: Tensor) -> Tensor:
    """Position of each token inside its document.

    Args:
        documents: [B, T] numbers; a document is a run of equal numbers.

    Returns:
        [B, T] int64: 0 at the start of each run.
    """
    index = torch.arange(documents.shape[1], device=documents.device)
    starts = torch.ones_like(documents, dtype=torch.bool)
    starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return index - torch.where(starts, index, 0).cummax(dim=1).values


def rotary_table(positions: Tensor, head_size: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines [B or 1, T, 1, head_size] of the rotary angles at ``positions``.

    The first half of the channels takes −sin of the second, the second half +sin of the first.
    """
    exponent = torch.arange(0, head_size, 2, dtype=torch.float32, device=positions.device) / head_size
    angles = positions.float()[..., None, None] * theta**-exponent
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)
    return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)


class _Rotate(torch.autograd.Function):
    """Rotates the two halves of the channels; the gradient is the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(gradient, cos, sin, -1), None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: int) -> Tensor:
    # Whole rows: writing each half of the channels for itself takes two to three times as long on a CPU.
    half = x.shape[-1] // 2
    swapped = torch.cat([x[..., half:], x[..., :half]], -1)
    return (x * cos).addcmul_(swapped, sin, value=sign)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions on ``x`` [B, T, H, head_size] with the table of `rotary_table`."""
    cos, sin = table[0].to(x.dtype), table[1].to(x.dtype)
    return _Rotate.apply(x, cos, sin) if torch.is_grad_enabled() else _rotated(x, cos, sin, 1)


class Visibility:
    """Who sees whom: built once per forward pass, shared by all layers.

    Args:
        queries: layout of the tokens of this pass.
        keys: layout of all keys (cached ones first); the last T of them are the queries.
        window: a query sees keys less than this many positions back.
        global_every: and keys at positions divisible by this; 0 = none.
    """

    def __init__(self, queries: TokenLayout, keys: TokenLayout, window: int, global_every: int) -> None:
        self.queries, self.keys, self.window, self.global_every = queries, keys, window, global_every
        self.num_queries, self.num_keys = queries.positions.shape[1], keys.positions.shape[1]
        self.past = self.num_keys - self.num_queries
        self.fits = self._fits_window()
        self.is_causal = keys.is_plain and self.past == 0 and self.fits
        self.sees_all = keys.is_plain and self.num_queries == 1 and self.fits
        self.is_blocked = self.past == 0 and not self.fits and self.num_queries > window
        self._masks: dict[Any, Tensor] = {}
        self._globals: tuple[Tensor, list[int]] | None = None

    def _fits_window(self) -> bool:
        if self.past == 0:
            return self.num_queries <= self.window
        return bool((self.queries.positions[:, -1:] - self.keys.positions < self.window).all())

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive mask [B or 1, 1, queries, keys] in ``dtype``: 0 where visible, −inf elsewhere."""
        if dtype not in self._masks:
            index = torch.arange(self.num_keys, device=self.keys.positions.device)[None]
            self._masks[dtype] = self._additive(index[:, self.past :], index, dtype)
        return self._masks[dtype]

    def block_mask(self, block: int, dtype: torch.dtype) -> Tensor:
        """Additive mask of one block of ``window`` queries against the keys of `block_keys`."""
        if (block, dtype) not in self._masks:
            start, stop, near = self._bounds(block)
            device = self.keys.positions.device
            rows = torch.arange(start, stop, device=device)[None]
            columns = torch.arange(near, stop, device=device)[None]
            far = self._far(block)
            if far is not None:
                columns = torch.cat([far, columns.expand(far.shape[0], -1)], 1)
                # a padded slot of the list of globals, or one that the near part shows too
                hidden = torch.zeros_like(columns, dtype=torch.bool)
                hidden[:, : far.shape[1]] = far >= near
            else:
                hidden = None
            self._masks[block, dtype] = self._additive(rows, columns, dtype, hidden)
        return self._masks[block, dtype]

    def block_keys(self, block: int, x: Tensor) -> Tensor:
        """What block ``block`` sees of keys or values ``x`` [B, H, T, D]: far globals, then the near part."""
        _, stop, near = self._bounds(block)
        far = self._far(block)
        if far is None:
            return x[:, :, near:stop]
        index = far.clamp(max=self.num_keys - 1)
        if index.shape[0] == 1:
            chosen = x[:, :, index[0]]
        else:
            chosen = x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
        return torch.cat([chosen, x[:, :, near:stop]], 2)

    def at(self, chosen: Tensor) -> ChosenQueries:
        """The same rules for some of the queries only: ``chosen`` [B, A] indices among them."""
        return ChosenQueries(self, chosen)

    def _bounds(self, block: int) -> tuple[int, int, int]:
        start = block * self.window
        return start, min(start + self.window, self.num_queries), max(0, start - self.window)

    def _far(self, block: int) -> Tensor | None:
        """Indices [B or 1, G] of the global tokens before the near part; padded with ``num_keys``."""
        if self.global_every == 0 or block < 2:
            return None
        if self._globals is None:
            chosen = self._global_keys()
            index = torch.arange(self.num_keys, device=chosen.device)
            order = torch.where(chosen, index, self.num_keys).sort(dim=1).values
            near = torch.arange(-(-self.num_queries // self.window), device=chosen.device) * self.window - self.window
            counts = (order[:, None, :] < near[None, :, None]).sum(-1).amax(0).tolist()
            self._globals = order, counts
        order, counts = self._globals
        return order[:, : counts[block]] if counts[block] else None

    def _global_keys(self) -> Tensor:
        chosen = self.keys.positions % self.global_every == 0
        return chosen if self.keys.valid is None else chosen & self.keys.valid

    def _additive(self, rows: Tensor, columns: Tensor, dtype: torch.dtype, hidden: Tensor | None = None) -> Tensor:
        """``rows`` and ``columns`` [B or 1, n] index the keys; see the rules in the header of the file."""
        columns = columns.clamp(max=self.num_keys - 1)
        visible = rows[:, :, None] >= columns[:, None, :]
        same = rows[:, :, None] == columns[:, None, :]
        if not self.fits:
            query, key = _take(self.keys.positions, rows), _take(self.keys.positions, columns)
            near = query[:, :, None] - key[:, None, :] < self.window
            if self.global_every:
                near = near | (key % self.global_every == 0)[:, None, :]
            visible = visible & near
        if self.keys.documents is not None:
            documents = self.keys.documents
            visible = visible & (_take(documents, rows)[:, :, None] == _take(documents, columns)[:, None, :])
        if self.keys.valid is not None:
            visible = visible & _take(self.keys.valid, columns)[:, None, :]
        if hidden is not None:
            visible, same = visible & ~hidden[:, None, :], same & ~hidden[:, None, :]
        # padding sees itself: a row of −inf alone would be not-a-number
        visible = visible | same
        mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
        return mask.masked_fill_(~visible, float("-inf"))[:, None]


class ChosenQueries:
    """Visibility for some queries of a pass, against all keys; queries go in blocks of one window."""

    is_causal = False

    def __init__(self, whole: Visibility, chosen: Tensor) -> None:
        self.whole, self.rows, self.window = whole, chosen + whole.past, whole.window
        self.sees_all = whole.sees_all
        self.is_blocked = chosen.shape[1] > whole.window
        self._masks: dict[Any, Tensor] = {}

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive mask [B, 1, A, keys]."""
        return self._mask(self.rows, (None, dtype))

    def block_mask(self, block: int, dtype: torch.dtype) -> Tensor:
        """Additive mask of one block of chosen queries."""
        return self._mask(self.rows[:, block * self.window : (block + 1) * self.window], (block, dtype))

    def block_keys(self, block: int, x: Tensor) -> Tensor:
        """All keys: chosen queries may stand anywhere."""
        return x

    def _mask(self, rows: Tensor, key: tuple[int | None, torch.dtype]) -> Tensor:
        if key not in self._masks:
            columns = torch.arange(self.whole.num_keys, device=rows.device)[None]
            self._masks[key] = self.whole._additive(rows, columns, key[1])
        return self._masks[key]


class GivenVisibility:
    """Visibility that somebody else has worked out, as a mask: window, documents and order are theirs to respect.

    Args:
        queries: layout of the tokens of this pass.
        mask: [B or 1, 1, queries, keys], True or 0 where visible, False or −inf elsewhere; a query sees something.

    Attributes:
        visible: the mask, as bool.
    """

    is_causal = sees_all = is_blocked = False

    def __init__(self, queries: TokenLayout, mask: Tensor) -> None:
        self.queries = queries
        self.visible = mask if mask.dtype == torch.bool else mask == 0
        self._masks: dict[torch.dtype, Tensor] = {}

    def mask(self, dtype: torch.dtype) -> Tensor:
        """Additive mask in ``dtype``: 0 where visible, −inf elsewhere."""
        if dtype not in self._masks:
            empty = torch.zeros(self.visible.shape, dtype=dtype, device=self.visible.device)
            self._masks[dtype] = empty.masked_fill_(~self.visible, float("-inf"))
        return self._masks[dtype]

    def at(self, chosen: Tensor) -> GivenVisibility:
        """The same rules for some of the queries only: ``chosen`` [B, A] indices among them."""
        visible = self.visible.expand(chosen.shape[0], -1, -1, -1)
        index = chosen[:, None, :, None].expand(-1, 1, -1, visible.shape[3])
        return GivenVisibility(self.queries, visible.gather(2, index))


def _take(values: Tensor, index: Tensor) -> Tensor:
    if values.shape[0] == 1 or index.shape[0] == 1:
        return values[:, index[0]] if index.shape[0] == 1 else values[0][index]
    return values.gather(1, index)


AnyVisibility: TypeAlias = Visibility | ChosenQueries | GivenVisibility


def attend(query: Tensor, key: Tensor, value: Tensor, visibility: AnyVisibility) -> Tensor:
    """Attention of ``query`` [B, H, T, D] over ``key`` and ``value`` [B, H', S, D]; gives [B, H, T, D]."""
    if visibility.is_causal or visibility.sees_all:
        return _attend(query, key, value, None, causal=visibility.is_causal and query.shape[2] > 1)
    ordered = isinstance(visibility, Visibility)
    if not visibility.is_blocked:
        return _attend(query, key, value, visibility.mask(query.dtype), causal=ordered)
    assert not isinstance(visibility, GivenVisibility)
    parts = []
    for block, part in enumerate(query.split(visibility.window, dim=2)):
        mask = visibility.block_mask(block, query.dtype)
        keys, values = visibility.block_keys(block, key), visibility.block_keys(block, value)
        parts.append(_attend(part, keys, values, mask, causal=ordered))
    return torch.cat(parts, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """One kernel call; ``causal``: the queries are the last of the keys, and see nothing behind themselves."""
    grouped = query.shape[1] != key.shape[1]
    if causal and torch.is_grad_enabled() and query.shape[2] > 1 and query.device.type == "cpu":
        if grouped:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        return blocked_attention(query, key, value, mask)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=causal and mask is None, enable_gqa=grouped
    )


class Attention(nn.Module):
    """Projections, optional QK-norm, rotary positions and windowed attention of one layer.

    Args:
        hidden_size, num_heads, num_key_value_heads: shape.
        head_size: channels of a head; None = ``hidden_size`` shared out among the heads.
        qk_norm: RMSNorm with gain on each head's queries and keys.
        value_residual: mixes the values with those of the first layer by two learned scalars.
        eps: of the norms.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        num_key_value_heads: int,
        *,
        head_size: int | None = None,
        qk_norm: bool,
        value_residual: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.head_size = head_size or hidden_size // num_heads
        paired, whole = num_key_value_heads * self.head_size, num_heads * self.head_size
        self.q_proj = nn.Linear(hidden_size, whole, bias=False)
        self.k_proj = nn.Linear(hidden_size, paired, bias=False)
        self.v_proj = nn.Linear(hidden_size, paired, bias=False)
        self.o_proj = nn.Linear(whole, hidden_size, bias=False)
        self.o_proj.starts_as = "output"  # type: ignore[assignment]
        self.q_norm = RMSNorm(self.head_size, eps) if qk_norm else None
        self.k_norm = RMSNorm(self.head_size, eps) if qk_norm else None
        self.value_mix = nn.Parameter(torch.tensor([1.0, 0.0])) if value_residual else None

    def queries(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated queries [B, H, T, D] of ``x`` [B, T, hidden]."""
        query = self.q_proj(x).unflatten(-1, (-1, self.head_size))
        if self.q_norm is not None:
            query = self.q_norm(query)
        return rotate(query, table).transpose(1, 2)

    def keys(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """Rotated keys [B, H', T, D] of ``x`` [B, T, hidden]."""
        key = self.k_proj(x).unflatten(-1, (-1, self.head_size))
        if self.k_norm is not None:
            key = self.k_norm(key)
        return rotate(key, table).transpose(1, 2)

    def values(self, x: Tensor, first: Tensor | None = None) -> Tensor:
        """Values [B, H', T, D] of ``x``, mixed with those of the first layer where that is on."""
        value = self.v_proj(x).unflatten(-1, (-1, self.head_size)).transpose(1, 2)
        if self.value_mix is not None and first is not None:
            mix = self.value_mix.to(value.dtype)
            value = mix[0] * value + mix[1] * first
        return value

    def output(self, attended: Tensor) -> Tensor:
        """Projects what the heads [B, H, T, D] gathered back to [B, T, hidden]."""
        return self.o_proj(attended.transpose(1, 2).flatten(2))


@torch.no_grad()
def attention_statistics(query: Tensor, key: Tensor, visibility: Visibility | GivenVisibility) -> dict[str, Tensor]:
    """What the fused kernel hides, for one layer. Costs T×S memory: call it now and then.

    Args:
        query: [B, H, T, D] as given to `attend`.
        key: [B, H', S, D].
        visibility: of the same pass.

    Returns:
        ``max_logit`` [H], the largest visible logit of each head (for QK-clip), and ``entropy`` [H], the
        mean entropy in nats of each head's attention over real tokens.
    """
    key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    logits = (query.float() @ key.float().transpose(-1, -2)) * query.shape[-1] ** -0.5
    logits = logits + visibility.mask(torch.float32)
    maximum = logits.amax(dim=(0, 2, 3))
    log_probability = logits.log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability.clamp(min=-1e4)).sum(-1)
    valid = visibility.queries.valid
    if valid is not None:
        weights = valid[:, None].to(entropy)
        return {"max_logit": maximum, "entropy": (entropy * weights).sum((0, 2)) / weights.sum().clamp(min=1)}
    return {"max_logit": maximum, "entropy": entropy.mean((0, 2))}
