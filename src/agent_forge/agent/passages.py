"""A folder of text files as passages: short pieces that can be found and read on their own.

Files ending in ``.txt`` or ``.md`` anywhere below the folder are read, in the order of their paths; links that lead out
of the folder are not followed. A passage is one or more whole paragraphs of at most ``max_words`` words; a longer
paragraph is cut after a sentence, or else between two words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent_forge.errors import DataError

ENDINGS = (".txt", ".md")
MAX_BYTES = 64 << 20
_PARAGRAPH = re.compile(r"\n\s*\n")
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a file.

    Attributes:
        source: path from the folder.
        text: the words, spaces and line breaks made single spaces.
    """

    source: str
    text: str


def read_passages(folder: Path, max_words: int = 80) -> list[Passage]:
    """The passages of a folder.

    Args:
        folder: with text files.
        max_words: of a passage, at least 8.

    Raises:
        DataError: no such folder, no text in it, or more than 64 MiB of it.
        ValueError: ``max_words`` below 8.
    """
    if max_words < 8:
        raise ValueError(f"max_words {max_words} must be at least 8")
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder; give one with .txt or .md files")
    root = folder.resolve()
    passages: list[Passage] = []
    size = 0
    for path in sorted(folder.rglob("*")):
        inside = path.resolve().is_relative_to(root)
        if path.suffix.lower() not in ENDINGS or not path.is_file() or not inside:
            continue
        size += path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{folder} holds more than {MAX_BYTES >> 20} MiB of text; give a smaller folder")
        text = path.read_text(encoding="utf-8", errors="replace")
        source = path.relative_to(folder).as_posix()
        passages += [Passage(source, piece) for piece in cut(text, max_words)]
    if not passages:
        raise DataError(f"{folder} holds no text; files must end in {' or '.join(ENDINGS)}")
    return passages


def cut(text: str, max_words: int) -> Iterator[str]:
    """Pieces of a text: whole paragraphs while they fit, else sentences, else words."""
    gathered: list[str] = []
    for piece in _pieces(text, max_words):
        words = piece.split()
        if gathered and len(gathered) + len(words) > max_words:
            yield " ".join(gathered)
            gathered = []
        gathered += words
    if gathered:
        yield " ".join(gathered)


def _pieces(text: str, max_words: int) -> Iterator[str]:
    for paragraph in _PARAGRAPH.split(text):
        if len(paragraph.split()) <= max_words:
            yield paragraph
            continue
        for sentence in _SENTENCE.split(paragraph):
            words = sentence.split()
            for start in range(0, len(words), max_words):
                yield " ".join(words[start : start + max_words])
