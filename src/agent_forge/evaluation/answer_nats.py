"""How surprised a model is by the right answers: the nats of its own words, with everything that it was told given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents, start_ids
from agent_forge.evaluation.bits_per_byte import token_nats
from agent_forge.model.forward import known_positions


@dataclass(frozen=True)
class AnswerNats:
    """What the words of the model cost, document by document.

    Attributes:
        nats: float64 [D].
        tokens: int64 [D], those that count; plain text counts whole, but for its opening mark.
    """

    nats: np.ndarray
    tokens: np.ndarray

    @property
    def mean(self) -> float:
        """Nats per token of all documents."""
        return float(self.nats.sum() / self.tokens.sum())

    def part(self, rows: slice) -> AnswerNats:
        """Some of the documents."""
        return AnswerNats(self.nats[rows], self.tokens[rows])


def answer_nats(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    max_length: int = 256,
    batch_tokens: int = 4096,
    to_the_end: bool = False,
) -> AnswerNats:
    """Scores the words of the assistant (of plain text all words), each document on its own.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        documents: longer ones are cut at ``max_length`` tokens.
        max_length: tokens of a document that are read; fewer where the model has positions for fewer.
        batch_tokens: tokens in a batch at most, padding included.
        to_the_end: everything from the first answer on counts, what the assistant is told in between included, and a
            long document loses its beginning instead of its end.

    Raises:
        ValueError: no document has a token that counts.
    """
    max_length = min(max_length, known_positions(model) or max_length)
    part = slice(-max_length, None) if to_the_end else slice(max_length)
    first = len(start_ids(tokenizer)) or 1
    rows = [
        (each.ids[part], _counts(np.asarray(each.prompted[part], bool), first, to_the_end))
        for each in encode_documents(tokenizer, documents)
    ]
    # from the first token that counts to the end; what does not count in between is left out of the sum
    windows = [
        (n, ids, len(ids) - int(counts.argmax()) if counts.any() else 0)
        for n, (ids, counts) in enumerate(rows)
        if len(ids) > 1
    ]
    tokens = np.asarray([int(counts.sum()) for _, counts in rows], np.int64)
    if not tokens.sum():
        raise ValueError(f"none of {len(rows)} documents has a word of the assistant within {max_length} tokens")
    nats = np.zeros(len(rows))
    for n, found in token_nats(model, windows, batch_tokens=batch_tokens):
        counts = rows[n][1]
        nats[n] = found[counts[len(counts) - len(found) :]].sum()
    return AnswerNats(nats, tokens)


def _counts(given: np.ndarray, first: int, to_the_end: bool) -> np.ndarray:
    """bool [T]: which tokens count.

    Args:
        given: bool [T], told to the model rather than written by it.
        first: tokens before it never count.
        to_the_end: see `answer_nats`.
    """
    place = np.arange(len(given))
    if not to_the_end:
        return ~given & (place >= first)
    begins = np.flatnonzero(given[:-1] & ~given[1:])  # the last given token before each answer
    return place > (begins[0] if len(begins) else 0)
