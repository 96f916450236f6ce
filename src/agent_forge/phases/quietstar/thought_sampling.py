"""Thoughts at many positions of a text at once, each token of all of them in one forward pass.

Zelikman et al. 2024 (Quiet-STaR, arXiv:2403.09629), section 4.2 and figure 3: the j-th tokens of all thoughts form a
block; a thought sees the text up to its own position and its own earlier tokens, so the mask between blocks is the
identity ("diagonal").

What we do differently:
1. While sampling, text and earlier blocks stay in the model's cache: a step costs one block. The pass with gradients
   runs once over text and all blocks.
2. Thoughts may start at some positions only (``places``); all is the paper's way.
3. Sliding windows, global tokens and packed documents are part of the mask, worked out from positions.
4. No mark can be thought: the logits of every special token are −inf (the reference code forces those of its two).
5. A short convolution follows the mask too: its taps see what is so many positions back among what a token sees.
6. What cannot follow such a mask (a memory, attention that differs by layer) gives each place a row of its own
   (`place_by_place`): the same numbers, slower. It is also what the fast way is tested against.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from agent_forge.model.attention import document_positions
from agent_forge.model.decoder import empty_cache
from agent_forge.model.forward import head_inputs


@dataclass(frozen=True)
class Marks:
    """Token ids that thoughts are made with.

    Attributes:
        opening, closing: ``<think>`` and ``</think>``.
        forbidden: what a thought may not hold (every special token).
    """

    opening: int
    closing: int
    forbidden: tuple[int, ...]


@dataclass(frozen=True)
class ThoughtPass:
    """One forward pass over a text and its thoughts, with gradients.

    Attributes:
        base_logits: [B, T, V] of the text without thoughts.
        base_hidden: [B, T, d], what the head read.
        log_probs: [B, K, N] of each thought token, nats.
        talk_logits: [B, K, M, V] for the M tokens after the place, with the thought before them.
        talk_hidden: [B, K, M, d].
    """

    base_logits: Tensor
    base_hidden: Tensor
    log_probs: Tensor
    talk_logits: Tensor
    talk_hidden: Tensor


def why_not_parallel(model: PreTrainedModel) -> str | None:
    """Why this model needs `place_by_place`; None if it can think in parallel."""
    config = model.config
    if getattr(config, "model_type", "") == "cognate":
        if config.memory != "off":
            return "its memory runs along the row"
        if config.short_convolution > config.sliding_window:
            return "its convolution reaches beyond its window"
        return None
    known = inspect.signature(model.forward).parameters
    if not {"attention_mask", "position_ids", "past_key_values"} <= set(known):
        return f"{type(model).__name__} takes no mask, positions or cache"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"}:
        return f"its layers differ in what they see ({', '.join(sorted(kinds))})"
    return None


@torch.no_grad()
def sample_thoughts(
    model: PreTrainedModel,
    input_ids: Tensor,
    marks: Marks,
    *,
    length: int,
    places: Tensor | None = None,
    documents: Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draws one thought for each place of each row.

    Args:
        model: any causal language model; see `why_not_parallel`.
        input_ids: [B, T].
        marks: ids of the marks.
        length: N, tokens of a thought.
        places: [K] positions after which a thought starts, ascending; None = all.
        documents: [B, T] numbers of packed documents, −1 = padding; None = one per row.
        temperature: of the draw; 0 = the likeliest tokens.
        generator: on the CPU; needed for a temperature above 0.

    Returns:
        int64 [B, K, N], marks left out.

    Raises:
        ValueError: the model cannot think in parallel.
    """
    if reason := why_not_parallel(model):
        raise ValueError(f"thoughts cannot be sampled in parallel: {reason}")
    text, positions = text_mask(model, input_ids, documents)
    places = _all_places(input_ids) if places is None else places.to(input_ids.device)
    # 1. the text goes into the cache
    cache = empty_cache(model)
    _forward(model, input_ids, text[:, None], positions, cache)
    # 2. block after block: the marks that open, then every token drawn
    block = torch.full((input_ids.shape[0], places.shape[0]), marks.opening, device=input_ids.device)
    drawn: list[Tensor] = []
    for number in range(length):
        rows = _newest_rows(model, text, positions, places, number + 1)
        logits = _forward(model, block, rows, positions[:, places] + number + 1, cache)
        block = draw(logits, marks, temperature, generator)
        drawn.append(block)
    return torch.stack(drawn, 2)


def draw(logits: Tensor, marks: Marks, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Tokens [...] from logits [..., V] by the Gumbel-max trick (Gumbel 1954; hard samples, no gradient)."""
    logits = logits.float()
    logits[..., list(marks.forbidden)] = float("-inf")
    if temperature == 0:
        return logits.argmax(-1)
    if generator is None:
        raise ValueError(f"a draw at temperature {temperature} needs a generator")
    noise = torch.empty(logits.shape).exponential_(generator=generator).log_().neg_()
    return (logits / temperature + noise.to(logits.device)).argmax(-1)


def think_along(
    model: PreTrainedModel,
    input_ids: Tensor,
    thoughts: Tensor,
    marks: Marks,
    *,
    talk: int,
    places: Tensor | None = None,
    documents: Tensor | None = None,
    mark_shift: Tensor | None = None,
) -> ThoughtPass:
    """One pass over the text, its thoughts, and the true tokens after each place.

    Args:
        model: as in `sample_thoughts`.
        input_ids: [B, T].
        thoughts: [B, K, N], of `sample_thoughts`.
        marks: ids of the marks.
        talk: M ≥ 1, true tokens predicted after each thought; beyond the text the last token is repeated.
        places: [K]; None = all.
        documents: [B, T] or None.
        mark_shift: [2, d] added to the embeddings of the opening and the closing mark; None = nothing.
    """
    places = _all_places(input_ids) if places is None else places.to(input_ids.device)
    blocks = _blocks(input_ids, thoughts, marks, talk, places)
    ids = torch.cat([input_ids, blocks.transpose(1, 2).flatten(1)], 1)
    text, positions = text_mask(model, input_ids, documents)
    count = blocks.shape[2]
    mask = thought_mask(model, text, positions, places, count)
    everywhere = _with_thoughts(positions, places, count)
    logits, hidden = _with_hidden(model, ids, mask, everywhere, marks, mark_shift)
    length = input_ids.shape[1]
    # [B, K, blocks, ·]
    after = logits[:, length:].unflatten(1, (count, -1)).transpose(1, 2)
    after_hidden = hidden[:, length:].unflatten(1, (count, -1)).transpose(1, 2)
    return _as_pass(logits[:, :length], hidden[:, :length], after, after_hidden, thoughts, marks, talk)


def place_by_place(
    model: PreTrainedModel,
    input_ids: Tensor,
    thoughts: Tensor,
    marks: Marks,
    *,
    talk: int,
    places: Tensor | None = None,
    documents: Tensor | None = None,
    mark_shift: Tensor | None = None,
) -> ThoughtPass:
    """As `think_along`, each place in a row of its own with its own past: for every architecture, and the proof."""
    places = _all_places(input_ids) if places is None else places.to(input_ids.device)
    blocks = _blocks(input_ids, thoughts, marks, talk, places)
    extra = {} if documents is None else {"documents": documents}
    base, base_hidden = _with_hidden(model, input_ids, None, None, marks, None, **extra)
    found: list[Tensor] = []
    found_hidden: list[Tensor] = []
    for row, number, past in _pasts(input_ids, places, documents):
        ids = torch.cat([past, blocks[row, number]])[None]
        logits, hidden = _with_hidden(model, ids, None, None, marks, mark_shift)
        found.append(logits[0, past.shape[0] :])
        found_hidden.append(hidden[0, past.shape[0] :])
    shape = (input_ids.shape[0], places.shape[0])
    after, after_hidden = torch.stack(found).unflatten(0, shape), torch.stack(found_hidden).unflatten(0, shape)
    return _as_pass(base, base_hidden, after, after_hidden, thoughts, marks, talk)


@torch.no_grad()
def sample_place_by_place(
    model: PreTrainedModel,
    input_ids: Tensor,
    marks: Marks,
    *,
    length: int,
    places: Tensor | None = None,
    documents: Tensor | None = None,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """As `sample_thoughts`, one place after the other, token by token."""
    places = _all_places(input_ids) if places is None else places.to(input_ids.device)
    drawn = torch.empty(input_ids.shape[0], places.shape[0], length, dtype=torch.long, device=input_ids.device)
    for row, number, past in _pasts(input_ids, places, documents):
        ids = torch.cat([past, past.new_tensor([marks.opening])])[None]
        for step in range(length):
            logits = model(input_ids=ids, use_cache=False).logits[:, -1]
            token = draw(logits, marks, temperature, generator)
            drawn[row, number, step] = token[0]
            ids = torch.cat([ids, token[None]], 1)
    return drawn


def text_mask(model: PreTrainedModel, input_ids: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Who sees whom in the text alone, bool [B or 1, T, T], and positions [B or 1, T]."""
    length = input_ids.shape[1]
    index = torch.arange(length, device=input_ids.device)
    if documents is None:
        positions = index[None]
        mask = (index[:, None] >= index[None, :])[None]
    else:
        positions = document_positions(documents)
        mask = (index[:, None] >= index[None, :]) & (documents[:, :, None] == documents[:, None, :])
    return mask & _near(model, positions, positions), positions


def thought_mask(model: PreTrainedModel, text: Tensor, positions: Tensor, places: Tensor, blocks: int) -> Tensor:
    """Who sees whom among a text and ``blocks`` blocks of its thoughts.

    Args:
        model: asked for its window.
        text: [B or 1, T, T] of `text_mask`.
        positions: [B or 1, T].
        places: [K].
        blocks: tokens of each thought so far, marks included.

    Returns:
        bool [B or 1, 1, T + blocks·K, T + blocks·K].
    """
    rows, length, width = text.shape[0], text.shape[1], places.shape[0]
    own = torch.eye(width, dtype=torch.bool, device=text.device)
    causal = torch.ones(blocks, blocks, dtype=torch.bool, device=text.device).tril()
    # 1. text sees text; 2. a thought sees the text before its place, 3. and its own earlier tokens
    mask = text.new_zeros(rows, length + blocks * width, length + blocks * width)
    mask[:, :length, :length] = text
    mask[:, length:, :length] = text[:, places].repeat(1, blocks, 1)
    mask[:, length:, length:] = torch.kron(causal.to(torch.uint8), own.to(torch.uint8)).bool()
    # 4. nobody sees further than the window
    everywhere = _with_thoughts(positions, places, blocks)
    return (mask & _near(model, everywhere, everywhere))[:, None]


def _newest_rows(model: PreTrainedModel, text: Tensor, positions: Tensor, places: Tensor, blocks: int) -> Tensor:
    """The rows of `thought_mask` that belong to the newest block, [B or 1, 1, K, T + blocks·K]."""
    own = torch.eye(places.shape[0], dtype=torch.bool, device=text.device).repeat(1, blocks)
    rows = torch.cat([text[:, places], own.expand(text.shape[0], -1, -1)], 2)
    keys = _with_thoughts(positions, places, blocks)
    return (rows & _near(model, positions[:, places] + blocks, keys))[:, None]


def _with_thoughts(positions: Tensor, places: Tensor, blocks: int) -> Tensor:
    """Positions [B or 1, T + blocks·K] of a text and, behind it, of ``blocks`` blocks of its thoughts."""
    ahead = positions[:, None, places] + torch.arange(1, blocks + 1, device=positions.device)[:, None]
    return torch.cat([positions, ahead.flatten(1)], 1)


def _near(model: PreTrainedModel, queries: Tensor, keys: Tensor) -> Tensor:
    """Which keys are within the window or global, bool [B or 1, queries, keys]."""
    window = getattr(model.config, "sliding_window", None)
    if not window or getattr(model.config, "layer_types", None):  # all of its layers are full: `why_not_parallel`
        return torch.ones(1, 1, 1, dtype=torch.bool, device=queries.device)
    near = queries[:, :, None] - keys[:, None, :] < window
    every = getattr(model.config, "global_every", 0)
    return near | (keys % every == 0)[:, None, :] if every else near


def _all_places(input_ids: Tensor) -> Tensor:
    return torch.arange(input_ids.shape[1], device=input_ids.device)


def _pasts(input_ids: Tensor, places: Tensor, documents: Tensor | None) -> Iterator[tuple[int, int, Tensor]]:
    """Row, number of the place, and the document's tokens up to the place: one after the other."""
    starts = torch.zeros_like(input_ids)
    if documents is not None:
        starts = torch.arange(documents.shape[1], device=documents.device) - document_positions(documents)
    for row in range(input_ids.shape[0]):
        for number, place in enumerate(places.tolist()):
            yield row, number, input_ids[row, int(starts[row, place]) : place + 1]


def _blocks(input_ids: Tensor, thoughts: Tensor, marks: Marks, talk: int, places: Tensor) -> Tensor:
    """[B, K, 1 + N + 1 + talk − 1]: opening mark, thought, closing mark, true next tokens."""
    if talk < 1:
        raise ValueError(f"talk is {talk}, at least 1 token is predicted after a thought")
    shape = thoughts.shape[:2]
    ahead = places[:, None] + torch.arange(1, talk, device=places.device)
    following = input_ids[:, ahead.clamp(max=input_ids.shape[1] - 1)]
    opening, closing = (thoughts.new_full((*shape, 1), mark) for mark in (marks.opening, marks.closing))
    return torch.cat([opening, thoughts, closing, following], 2)


def _as_pass(
    base: Tensor, base_hidden: Tensor, after: Tensor, hidden: Tensor, thoughts: Tensor, marks: Marks, talk: int
) -> ThoughtPass:
    length = thoughts.shape[2]
    thinking = after[:, :, :length].float()
    hide = torch.zeros(thinking.shape[-1], device=thinking.device)
    hide[list(marks.forbidden)] = float("-inf")
    log_probs = (thinking + hide).log_softmax(-1).gather(-1, thoughts[..., None])[..., 0]
    last = slice(length + 1, length + 1 + talk)
    return ThoughtPass(base, base_hidden, log_probs, after[:, :, last], hidden[:, :, last])


def _forward(model: PreTrainedModel, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Logits [B, T, V] of tokens that join the cache."""
    found = model(
        input_ids=ids,
        attention_mask=_additive(mask.expand(ids.shape[0], -1, -1, -1), model),
        position_ids=positions.expand(ids.shape[0], -1),
        past_key_values=cache,
        use_cache=True,
    )
    logits: Tensor = found.logits
    return logits


def _with_hidden(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor | None,
    positions: Tensor | None,
    marks: Marks,
    shift: Tensor | None,
    documents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] and what the head read [B, T, d]."""
    embedded = model.get_input_embeddings()(ids)
    if shift is not None:
        for mark, row in ((marks.opening, shift[0]), (marks.closing, shift[1])):
            embedded = embedded + (ids == mark)[..., None].to(embedded.dtype) * row.to(embedded.dtype)
    options: dict[str, Any] = {}
    if mask is not None and positions is not None:
        options["attention_mask"] = _additive(mask.expand(ids.shape[0], -1, -1, -1), model)
        options["position_ids"] = positions.expand(ids.shape[0], -1)
    if documents is not None:
        options["document_ids"] = documents
    with head_inputs(model) as seen:
        logits: Tensor = model(inputs_embeds=embedded, use_cache=False, **options).logits
    return logits, seen[0]


def _additive(mask: Tensor, model: PreTrainedModel) -> Tensor:
    """0 where visible, −inf elsewhere, in the model's type: what transformers expects of four axes."""
    return torch.zeros(mask.shape, dtype=model.dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
