"""What is left out of a corpus, and why: length, control characters, duplicates, quality.

Quality compares a document's bits per byte under a small reference model (a byte trigram model trained on the
source itself) with the source's median m: ``quality = min(b, m) / max(b, m)``. It is 1 for a typical document and
falls for text that is hard to predict (noise, another language) and for text that is too easy (the same line again
and again), as in CCNet's perplexity filter (Wenzek et al. 2019, arXiv:1911.00359), with two sides instead of one.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent_forge.data.documents import Document
from agent_forge.data.readers import cut_before

_CLASSES = 64
_SHINGLE = 8
_FEWEST_SHINGLES = 12
_FEWEST_FOR_QUALITY = 100
_REFERENCE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class FilterSettings:
    """When a document is left out.

    Attributes:
        min_bytes: shorter documents are dropped.
        max_bytes: longer plain documents are cut into pieces of at most that size where a paragraph, line or word ends;
            longer conversations are dropped.
        min_quality: documents with a lower quality score (0–1) are dropped; 0 switches the score off.
        near_duplicates: whether to drop documents that differ from an earlier one by little.
    """

    min_bytes: int = 64
    max_bytes: int = 8192
    min_quality: float = 0.7
    near_duplicates: bool = True


@dataclass
class FilterReport:
    """How many documents of a source came in, stayed and fell out, with examples.

    Attributes:
        records: records read.
        pieces: documents after long ones were cut.
        kept: documents that stayed.
        kept_bytes: their bytes.
        dropped: number by reason.
        examples: up to three openings by reason.
    """

    records: int = 0
    pieces: int = 0
    kept: int = 0
    kept_bytes: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def drop(self, reason: str, document: Document) -> None:
        """Counts a dropped document."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        shown = self.examples.setdefault(reason, [])
        if len(shown) < 3:
            shown.append(document.text[:80])

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "records": self.records,
            "pieces": self.pieces,
            "kept": self.kept,
            "kept_bytes": self.kept_bytes,
            "dropped": dict(sorted(self.dropped.items())),
            "examples": dict(sorted(self.examples.items())),
        }


class Duplicates:
    """Remembers what was seen: exact words, and a cheap signature of near copies."""

    def __init__(self, near: bool = True) -> None:
        self._near = near
        self._exact: set[str] = set()
        self._signatures: set[tuple[int, ...]] = set()
        self._held: set[str | tuple[int, ...]] = set()

    def hold(self, document: Document) -> None:
        """Remembers a held-out document: nothing like it may be trained on."""
        self._held.add(document.key())
        if self._near and (signature := near_signature(_own_words(document))) is not None:
            self._held.add(signature)

    def seen(self, document: Document) -> str | None:
        """The reason to drop this document, or None, in which case it is remembered."""
        key = document.key()
        if key in self._exact:
            return "exact duplicate"
        signature = near_signature(_own_words(document)) if self._near else None
        if key in self._held or signature in self._held:
            return "held out"
        if signature is not None and signature in self._signatures:
            return "near duplicate"
        self._exact.add(key)
        if signature is not None:
            self._signatures.add(signature)
        return None


def _own_words(document: Document) -> str:
    """What a document does not share with its like: of a conversation the assistant's words (prompts repeat)."""
    if not document.turns:
        return document.text
    return "\n".join(content for role, content in document.turns if role == "assistant")


def near_signature(text: str) -> tuple[int, ...] | None:
    """The four smallest hashes of a document's runs of eight words (bottom-k sketch; Broder 1997), or None for short
    text.

    Runs start only at words whose own hash is divisible by four, so that inserted words do not move them. Two documents
    that share a fraction J of their runs have the same signature with a chance of about J⁴: near copies are found,
    documents that share a paragraph are not.
    """
    words = text.lower().encode("utf-8", "surrogatepass").split()
    starts = [place for place, word in enumerate(words[: -_SHINGLE or None]) if zlib.crc32(word) & 3 == 0]
    if len(starts) < _FEWEST_SHINGLES:
        return None
    hashes = sorted({zlib.crc32(b" ".join(words[place : place + _SHINGLE])) for place in starts})
    return tuple(hashes[:4])


def pieces_of(document: Document, max_bytes: int) -> list[Document]:
    """The document itself, or, if it is plain text of more than ``max_bytes`` bytes, pieces of at most that size."""
    text = document.text
    if document.turns or len(text) * 4 <= max_bytes or len(text.encode("utf-8", "surrogatepass")) <= max_bytes:
        return [document]
    found = []
    while text:
        limit = max_bytes
        while len(text[:limit].encode("utf-8", "surrogatepass")) > max_bytes:  # characters of several bytes
            limit = max(1, limit * 3 // 4)
        cut = cut_before(text, limit) if len(text) > limit else len(text)
        piece = text[:cut].strip()
        if piece:
            found.append(Document(piece, document.domain, document.level))
        text = text[cut:]
    return found


def unreadable(text: str) -> bool:
    """Whether more than 1% of the characters are control characters, unpaired surrogates or replacement marks."""
    strange = sum(1 for c in text if (c < " " and c not in "\n\t\r") or c == "\ufffd" or "\ud800" <= c <= "\udfff")
    return strange * 100 > len(text)


class TrigramModel:
    """Bits per byte under interpolated byte trigrams over the 63 most frequent bytes and one class for the others."""

    def __init__(self, documents: Sequence[Document]) -> None:
        """Counts over the first 8 MB of ``documents``."""
        sample, size = [], 0
        for document in documents:
            sample.append(document.text.encode("utf-8", "surrogatepass"))
            size += len(sample[-1])
            if size > _REFERENCE_BYTES:
                break
        data = np.frombuffer(b"\n".join(sample), np.uint8)
        frequent = np.argsort(-np.bincount(data, minlength=256), kind="stable")[: _CLASSES - 1]
        self._class = np.full(256, _CLASSES - 1, np.int64)
        self._class[frequent] = np.arange(_CLASSES - 1)
        codes = self._class[data]
        uni = np.bincount(codes, minlength=_CLASSES) + 0.5
        p1 = uni / uni.sum()
        bi = np.bincount(codes[:-1] * _CLASSES + codes[1:], minlength=_CLASSES**2).reshape(_CLASSES, _CLASSES)
        p2 = (bi + 4.0 * p1) / (bi.sum(1, keepdims=True) + 4.0)
        cells = (codes[:-2] * _CLASSES + codes[1:-1]) * _CLASSES + codes[2:]
        tri = np.bincount(cells, minlength=_CLASSES**3).reshape(_CLASSES, _CLASSES, _CLASSES)
        p3 = (tri + 4.0 * p2[None]) / (tri.sum(2, keepdims=True) + 4.0)
        bits = -np.log2(p3)
        bits[:, :, _CLASSES - 1] += np.log2(256 - (_CLASSES - 1))  # which of the other bytes
        self._bits = bits.astype(np.float32).ravel()

    def bits_per_byte(self, text: str) -> float:
        """Bits per byte of ``text`` after its first two bytes (0 for shorter text)."""
        codes = self._class[np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)]
        if len(codes) < 3:
            return 0.0
        return float(self._bits[(codes[:-2] * _CLASSES + codes[1:-1]) * _CLASSES + codes[2:]].mean())


def qualities(documents: Sequence[Document]) -> np.ndarray:
    """Quality of each document of one source, float64 [D] in 0–1; all 1 where there are fewer than 100 to compare."""
    if len(documents) < _FEWEST_FOR_QUALITY:
        return np.ones(len(documents))
    model = TrigramModel(documents)
    bits = np.asarray([model.bits_per_byte(document.text) for document in documents])
    median = float(np.median(bits))
    found: np.ndarray = np.minimum(bits, median) / np.maximum(np.maximum(bits, median), 1e-9)
    return found
