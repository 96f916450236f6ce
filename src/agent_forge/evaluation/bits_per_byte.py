"""Bits per byte: how many bits a model needs for each byte of a text, whatever its tokenizer.

Convention. The opening mark is given, never predicted. Every other token is predicted and its nats are counted, marks
included; each mark (role, end of turn, end of document) stands for one byte, as a newline would
(`Document.num_bytes`). A tokenizer without an opening mark cannot predict its first token: that one is charged
log(vocabulary). Long documents are read through windows that overlap by half, so that every token but those of the
first window has at least half a window of context.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document, Split
from agent_forge.data.synthetic_world import TOOLS
from agent_forge.data.tokenizer import encode_documents, has_thoughts, start_ids
from agent_forge.model.forward import known_positions

_LOGITS_BYTES = 256 << 20  # fp32 logits of one batch; the head's output is the largest tensor of an evaluation


@dataclass(frozen=True)
class Score:
    """How well a model predicts some texts.

    Attributes:
        bits_per_byte: nats / (ln 2 · bytes).
        perplexity: exp(nats / tokens); depends on the tokenizer.
        tokens: predicted tokens.
        bytes: bytes that they stand for.
        nats_per_document: float64 [D], in the order given.
        bytes_per_document: int64 [D].
        tokens_per_document: int64 [D].
    """

    bits_per_byte: float
    perplexity: float
    tokens: int
    bytes: int
    nats_per_document: np.ndarray
    bytes_per_document: np.ndarray
    tokens_per_document: np.ndarray

    @classmethod
    def of(cls, nats: np.ndarray, sizes: np.ndarray, tokens: np.ndarray) -> Score:
        """The score of documents from their nats, bytes and predicted tokens."""
        total, count = float(nats.sum()), int(tokens.sum())
        return cls(
            bits_per_byte=total / math.log(2) / int(sizes.sum()),
            perplexity=math.exp(min(total / count, 700.0)),
            tokens=count,
            bytes=int(sizes.sum()),
            nats_per_document=nats,
            bytes_per_document=sizes,
            tokens_per_document=tokens,
        )

    def to_json(self) -> dict[str, Any]:
        """The totals, without the figures per document."""
        return {
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "documents": len(self.nats_per_document),
        }


@torch.inference_mode()
def score(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str | Document],
    *,
    max_length: int = 512,
    batch_tokens: int = 8192,
    autocast: torch.dtype | None = None,
) -> Score:
    """Scores texts under a causal language model, each on its own.

    Args:
        model: any causal language model of transformers.
        tokenizer: its tokenizer.
        texts: strings or documents; conversations keep their marks only if given as documents.
        max_length: tokens that the model sees at once; fewer where it has positions for fewer.
        batch_tokens: tokens in a batch at most, padding included; fewer where the logits would take over 256 MB.
        autocast: e.g. ``torch.bfloat16``; None runs in the model's own precision.

    Raises:
        ValueError: there is no text, or ``max_length`` < 2.
        FloatingPointError: the model gave logits that are not finite.
    """
    if not texts or max_length < 2:
        raise ValueError(f"{len(texts)} texts and max_length {max_length}: at least one text and length 2 are needed")
    max_length = min(max_length, known_positions(model) or max_length)
    documents = [text if isinstance(text, Document) else Document(text) for text in texts]
    if not has_thoughts(tokenizer):
        documents = [document.without_thoughts() for document in documents]
    nats, tokens = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    windows = []
    unpredicted = math.log(_vocabulary(model, tokenizer))
    for number, encoded in enumerate(encode_documents(tokenizer, documents)):
        tokens[number] = len(encoded.ids) - len(start_ids(tokenizer))
        if not start_ids(tokenizer) and encoded.ids:
            nats[number] += unpredicted
        windows += [(number, ids, scored) for ids, scored in sliding(encoded.ids, max_length)]
    for number, found in window_nats(model, windows, batch_tokens=batch_tokens, autocast=autocast):
        nats[number] += found
    return Score.of(nats, np.asarray([document.num_bytes for document in documents], np.int64), tokens)


def score_domains(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    split: Split = "test",
    max_documents: int | None = None,
    *,
    domains: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Score]:
    """`score` for each domain of a corpus that has documents in ``split``.

    Args:
        model: any causal language model of transformers.
        tokenizer: its tokenizer.
        corpus: an open corpus.
        split: "train", "selection" or "test".
        max_documents: the first so many of each domain (their order is that of a hash); None = all.
        domains: which; None = all that can be trained on (`Corpus.domains`). Held-out sources are `Corpus.held_out`.
        options: as for `score`.
    """
    scores = {}
    for domain in corpus.domains if domains is None else domains:
        if documents := corpus.documents(domain, split)[:max_documents]:
            scores[domain] = score(model, tokenizer, documents, **options)
    return scores


def mean_bits_per_byte(scores: Mapping[str, Score]) -> float:
    """The plain mean over domains: each counts the same, however much text it has."""
    return float(np.mean([entry.bits_per_byte for entry in scores.values()]))


def ordinary_bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, split: Split, max_documents: int
) -> float:
    """Bits per byte of ordinary text, mean over the domains; calls of tools are no ordinary text."""
    domains = [name for name in corpus.domains if name != TOOLS] or corpus.domains
    return mean_bits_per_byte(score_domains(model, tokenizer, corpus, split, max_documents, domains=domains))


def sliding(ids: Sequence[int], max_length: int) -> Iterator[tuple[list[int], int]]:
    """Windows over one document: (tokens, how many of the last ones this window scores)."""
    if len(ids) < 2:
        return
    first = list(ids[:max_length])
    yield first, len(first) - 1
    stride = max(1, max_length // 2)
    at = len(first)
    while at < len(ids):
        fresh = min(stride, len(ids) - at)
        yield list(ids[at + fresh - max_length : at + fresh]), fresh
        at += fresh


def window_nats(
    model: PreTrainedModel,
    windows: Sequence[tuple[int, list[int], int]],
    *,
    batch_tokens: int = 8192,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, float]]:
    """Nats of the scored tail of each window, windows of like length together.

    Args:
        model: any causal language model.
        windows: (number, tokens, how many of the last ones are scored).
        batch_tokens: tokens in a batch at most, padding included.
        autocast: precision of the forward pass; the logarithms are fp32 in any case.

    Yields:
        (number, nats), longest windows first.
    """
    for number, nats in _tail_nats(model, windows, batch_tokens, autocast):
        yield number, float(nats.sum())


def token_nats(
    model: PreTrainedModel,
    windows: Sequence[tuple[int, list[int], int]],
    *,
    batch_tokens: int = 8192,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """As `window_nats`, token by token: (number, float64 [how many are scored]), in the order of the text."""
    for number, nats in _tail_nats(model, windows, batch_tokens, autocast):
        yield number, nats.cpu().numpy()


def _tail_nats(
    model: PreTrainedModel,
    windows: Sequence[tuple[int, list[int], int]],
    batch_tokens: int,
    autocast: torch.dtype | None,
) -> Iterator[tuple[int, Tensor]]:
    order = sorted(range(len(windows)), key=lambda place: (-len(windows[place][1]), place))
    vocabulary = _vocabulary(model, None)
    limit = max(1, min(batch_tokens, _LOGITS_BYTES // (4 * vocabulary)))
    at = 0
    was_training = model.training
    model.eval()
    while at < len(order):
        longest = len(windows[order[at]][1])
        rows = [windows[place] for place in order[at : at + max(1, limit // longest)]]
        at += len(rows)
        yield from zip([row[0] for row in rows], _batch_nats(model, rows, longest, autocast), strict=True)
    model.train(was_training)


def _batch_nats(
    model: PreTrainedModel, rows: Sequence[tuple[int, list[int], int]], longest: int, autocast: torch.dtype | None
) -> list[Tensor]:
    device = next(model.parameters()).device
    # Padding lies to the right: a causal model cannot see it, so that no mask (a slower kernel) is needed.
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    scored = torch.zeros(len(rows), longest, dtype=torch.bool)
    for place, (_, tokens, tail) in enumerate(rows):
        ids[place, : len(tokens)] = torch.tensor(tokens)
        scored[place, len(tokens) - tail : len(tokens)] = True
    ids, scored = ids.to(device), scored.to(device)
    precision = torch.autocast(device.type, dtype=autocast) if autocast else nullcontext()
    with torch.inference_mode(), precision:
        logits = model(input_ids=ids, use_cache=False).logits
    found = []
    for place in range(len(rows)):  # a row at a time: the fp32 copy of the logits stays small
        wanted = scored[place, 1:]
        losses = F.cross_entropy(logits[place, :-1][wanted].float(), ids[place, 1:][wanted], reduction="none")
        if not bool(torch.isfinite(losses).all()):
            raise FloatingPointError("the model gave logits that are not finite")
        found.append(losses.double())
    return found


def _vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> int:
    size = getattr(model.config, "vocab_size", None)
    return int(size if size else len(tokenizer) if tokenizer is not None else 1 << 17)
