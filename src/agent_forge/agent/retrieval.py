"""Retrieval: the passages of a folder that a question is about, by BM25 or by the model's own hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import numpy as np

from agent_forge.agent.bm25 import BM25
from agent_forge.agent.embeddings import Embed, Similar
from agent_forge.agent.passages import Passage, read_passages

Mode: TypeAlias = Literal["bm25", "embedding"]
MODES: tuple[Mode, ...] = ("bm25", "embedding")


class Index(Protocol):
    """What scores texts."""

    def scores(self, question: str) -> np.ndarray:
        """One score for each text; higher is closer."""


class Retriever:
    """Passages, indexed.

    Args:
        passages: what can be found.
        mode: ``bm25`` counts words, ``embedding`` compares vectors.
        embed: texts → vectors; needed by ``embedding``.

    Raises:
        ValueError: no passage, an unknown mode, or no way to embed.
    """

    def __init__(self, passages: Sequence[Passage], mode: Mode = "bm25", embed: Embed | None = None) -> None:
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} must be one of {', '.join(MODES)}")
        if mode == "embedding" and embed is None:
            raise ValueError("retrieval by embedding needs a model")
        self.passages = list(passages)
        # the name of a file says what it is about
        texts = [f"{Path(passage.source).stem} {passage.text}" for passage in self.passages]
        self.mode = mode
        self._index: Index = BM25(texts) if embed is None or mode == "bm25" else Similar(texts, embed)

    @classmethod
    def of_folder(cls, folder: Path, mode: Mode = "bm25", embed: Embed | None = None, max_words: int = 80) -> Retriever:
        """The passages of a folder's text files.

        Raises:
            DataError: the folder cannot be used.
            ValueError: as the class.
        """
        return cls(read_passages(folder, max_words), mode, embed)

    def find(self, question: str, count: int = 3) -> list[tuple[Passage, float]]:
        """The passages with the highest scores above 0, best first; of equal ones the earlier.

        Args:
            question: what is asked.
            count: so many at most.
        """
        scores = self._index.scores(question)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self.passages[n], float(scores[n])) for n in best if scores[n] > 0]
