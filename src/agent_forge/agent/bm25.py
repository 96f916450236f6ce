"""BM25: which texts are about the words of a question.

Robertson and Zaragoza 2009 "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations and Trends in
Information Retrieval 3(4), equations 3.3 and 3.15: the score of a text is Σ over the question's words of
idf · tf · (k1 + 1) / (tf + k1 · (1 − b + b · length / average length)).

What we do differently:
1. The weight of a word is ln(1 + (N − n + ½) / (n + ½)), as in Lucene: the paper's falls below zero for a word that is
   in more than half of the texts, so that containing it would count against a text.
2. A word that stands twice in the question counts twice (the paper's k3 = ∞).
3. Words are runs of letters and digits, in lower case; no stemming, no stop words.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Runs of letters and digits, in lower case."""
    return _WORD.findall(text.casefold())


class BM25:
    """An index of texts.

    Args:
        texts: at least one.
        k1: how soon more of a word stops to count (the paper's 1.2–2).
        b: how much long texts are held back, 0–1 (0.5–0.8).

    Raises:
        ValueError: no text, or a parameter outside its range.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        if not texts:
            raise ValueError("there is no text to search")
        if k1 < 0 or not 0 <= b <= 1:
            raise ValueError(f"k1 {k1} must be at least 0, b {b} in 0–1")
        counts = [Counter(words_of(text)) for text in texts]
        lengths = np.array([count.total() for count in counts], dtype=np.float64)
        self._k1 = k1
        average = lengths.mean() or 1.0
        self._held_back = k1 * (1 - b + b * lengths / average)
        self._size = len(texts)
        found: dict[str, tuple[list[int], list[int]]] = {}
        for place, count in enumerate(counts):
            for word, number in count.items():
                places, numbers = found.setdefault(word, ([], []))
                places.append(place)
                numbers.append(number)
        self._postings = {
            word: (np.array(places), np.array(numbers, np.float64)) for word, (places, numbers) in found.items()
        }

    def idf(self, word: str) -> float:
        """Weight of a word: the rarer, the higher; 0 if no text has it."""
        if word not in self._postings:
            return 0.0
        holders = len(self._postings[word][0])
        return math.log(1 + (self._size - holders + 0.5) / (holders + 0.5))

    def scores(self, question: str) -> np.ndarray:
        """Score of each text, float64 [N]; 0 where it shares no word with the question."""
        scores = np.zeros(self._size)
        for word, times in Counter(words_of(question)).items():
            if word in self._postings:
                places, numbers = self._postings[word]
                frequency = numbers * (self._k1 + 1) / (numbers + self._held_back[places])
                scores[places] += times * self.idf(word) * frequency
        return scores
