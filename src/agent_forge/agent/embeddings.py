"""Texts as vectors of the model's own: the mean of what its head reads at each token.

1. Mean over tokens, the opening mark left out (its state is the same for every text).
2. The mean vector of the indexed texts is taken away from all: the hidden states of language models share a large
   common part that would make every pair similar (Mu and Viswanath 2018 "All-but-the-Top", arXiv:1702.01417, section 2;
   their second step, the removal of leading directions, is left out: a folder may hold few texts).
3. Length one, so that a product is a cosine.

No training, no second model. What it is worth next to BM25: benchmarks/retrieval.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from transformers import PreTrainedTokenizerBase

from agent_forge.data.tokenizer import encode_texts, start_ids
from agent_forge.model.decoder import Decoder
from agent_forge.model.forward import mean_hidden

Embed: TypeAlias = Callable[[Sequence[str]], np.ndarray]
"""Texts → vectors, float32 [N, d]."""


def embedder(model: Decoder, tokenizer: PreTrainedTokenizerBase, max_tokens: int = 256) -> Embed:
    """What makes vectors of texts with this model.

    Args:
        model: any causal language model.
        tokenizer: its tokenizer.
        max_tokens: of a text that are read.
    """
    return lambda texts: mean_states(model, tokenizer, texts, max_tokens=max_tokens)


def mean_states(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_tokens: int = 256,
    batch_tokens: int = 8192,
) -> np.ndarray:
    """Mean hidden state of each text, float32 [N, d]; zeros for a text without tokens.

    Args:
        model: any causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        texts: what to read.
        max_tokens: of a text that are read.
        batch_tokens: tokens in a batch at most, padding included.
    """
    start = start_ids(tokenizer)
    rows = [[*start, *ids[:max_tokens]] for ids in encode_texts(tokenizer, list(texts))]
    means: np.ndarray = mean_hidden(model, rows, skip=len(start), batch_tokens=batch_tokens).float().numpy()
    return means


class Similar:
    """An index of vectors.

    Args:
        texts: at least one.
        embed: texts → vectors.

    Raises:
        ValueError: no text.
    """

    def __init__(self, texts: Sequence[str], embed: Embed) -> None:
        if not texts:
            raise ValueError("there is no text to search")
        self._embed = embed
        vectors = embed(texts)
        # the mean of a single text is itself: nothing would be left of it
        self._mean = vectors.mean(0) if len(texts) > 1 else np.zeros_like(vectors[0])
        self._vectors = _unit(vectors - self._mean)

    def scores(self, question: str) -> np.ndarray:
        """Cosine of the question with each text, float32 [N], −1 to 1."""
        return self._vectors @ _unit(self._embed([question]) - self._mean)[0]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
