"""How surprised a model is by the right answers: the nats of its own words, with everything that it was told given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents, start_ids


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


@torch.inference_mode()
def answer_nats(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[Document],
    *,
    max_length: int = 256,
    batch_tokens: int = 4096,
) -> AnswerNats:
    """Scores the words of the assistant (of plain text all words), each document on its own.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        documents: longer ones are cut at ``max_length`` tokens.
        max_length: tokens of a document that are read.
        batch_tokens: tokens in a batch at most, padding included.

    Raises:
        ValueError: no document has a token that counts.
    """
    rows = [(each.ids[:max_length], each.prompted[:max_length]) for each in encode_documents(tokenizer, documents)]
    nats, tokens = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
    first = len(start_ids(tokenizer)) or 1
    order = sorted((n for n, (ids, _) in enumerate(rows) if len(ids) > 1), key=lambda n: (-len(rows[n][0]), n))
    device = next(model.parameters()).device
    at = 0
    while at < len(order):
        longest = len(rows[order[at]][0])
        chosen = order[at : at + max(1, batch_tokens // longest)]
        at += len(chosen)
        ids, counted = torch.zeros(len(chosen), longest, dtype=torch.long), torch.zeros(len(chosen), longest)
        for place, n in enumerate(chosen):
            length = len(rows[n][0])
            ids[place, :length] = torch.tensor(rows[n][0])
            counted[place, :length] = 1 - torch.tensor(rows[n][1], dtype=torch.float32)
        counted[:, :first] = 0
        # padding stands behind the text: a causal model does not see it
        logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1].float()
        costs = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:].to(device), reduction="none").cpu() * counted[:, 1:]
        for place, n in enumerate(chosen):
            nats[n], tokens[n] = float(costs[place].double().sum()), int(counted[place].sum())
    if not tokens.sum():
        raise ValueError(f"none of {len(rows)} documents has a word of the assistant within {max_length} tokens")
    return AnswerNats(nats, tokens)
