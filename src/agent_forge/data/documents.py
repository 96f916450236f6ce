"""What the data room hands out: documents and tasks. Imports nothing heavy.

A document is text; a conversation is a document that also keeps its turns, so that the tokenizer can
mark who speaks. A task is a question with one exact answer, so that a program can grade it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Split: TypeAlias = Literal["train", "selection", "test"]
SPLITS: tuple[Split, ...] = ("train", "selection", "test")

Turn: TypeAlias = tuple[str, str]
"""(role, content); the role is "user", "assistant", or "thought" for what the assistant thinks before its next turn."""

_SPACES = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Document:
    """One piece of text that belongs together.

    Attributes:
        text: the words, without marks; the contents of the turns joined by newlines if there are turns, thoughts
            included.
        domain: the domain that it was ingested under.
        level: difficulty 1–10 where known.
        turns: who says what, in order; empty for plain text.
    """

    text: str
    domain: str = ""
    level: int | None = None
    turns: tuple[Turn, ...] = ()

    @classmethod
    def chat(cls, turns: Sequence[Turn], domain: str = "", level: int | None = None) -> Document:
        """A conversation as a document."""
        return cls("\n".join(content for _, content in turns), domain, level, tuple(turns))

    def without_thoughts(self) -> Document:
        """The same document with its thoughts left out; itself if it has none."""
        if all(role != "thought" for role, _ in self.turns):
            return self
        return Document.chat([turn for turn in self.turns if turn[0] != "thought"], self.domain, self.level)

    @property
    def num_bytes(self) -> int:
        """Bytes of UTF-8 that bits per byte divides by.

        Every mark that a model has to predict (role, end of turn, end of document) stands for one byte, as a
        newline would: the figure is the same for every tokenizer.
        """
        if not self.turns:
            return len(self.text.encode()) + 1
        return sum(len(content.encode()) + 2 for _, content in self.turns)

    def key(self) -> str:
        """sha256 (hex) of the words alone: spaces and letter case do not make another document."""
        return content_key(self.text)

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads; a conversation stores only its turns."""
        row: dict[str, Any] = {"turns": [list(turn) for turn in self.turns]} if self.turns else {"text": self.text}
        if self.level is not None:
            row["level"] = self.level
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any], domain: str) -> Document:
        """The document of a row that `to_json` wrote."""
        if "turns" in row:
            return cls.chat([(role, content) for role, content in row["turns"]], domain, row.get("level"))
        return cls(row["text"], domain, row.get("level"))


@dataclass(frozen=True, slots=True)
class Task:
    """A question that a program can grade.

    Attributes:
        prompt: what the user says.
        answer: the exact answer, short.
        kind: what is asked (``arithmetic/change``, ``code/output``, ``choice`` …).
        level: difficulty 1–10 where known.
        domain: the domain that it belongs to.
        choices: the possible answers where the question offers some; the answer is one of them.
    """

    prompt: str
    answer: str
    kind: str
    level: int | None = None
    domain: str = ""
    choices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        row: dict[str, Any] = {"prompt": self.prompt, "answer": self.answer, "kind": self.kind}
        if self.level is not None:
            row["level"] = self.level
        if self.choices:
            row["choices"] = list(self.choices)
        return row

    @classmethod
    def from_json(cls, row: Mapping[str, Any], domain: str) -> Task:
        """The task of a row that `to_json` wrote."""
        choices = tuple(row.get("choices", ()))
        return cls(row["prompt"], row["answer"], row["kind"], row.get("level"), domain, choices)


def content_key(text: str) -> str:
    """sha256 (hex) of ``text`` with runs of white space made one space and letter case dropped."""
    return hashlib.sha256(_SPACES.sub(" ", text).strip().casefold().encode("utf-8", "surrogatepass")).hexdigest()


def unit_of(key: str) -> float:
    """A number in [0, 1) from a sha256 (hex): the same key always gives the same number."""
    return int(key[:13], 16) / 16**13


def split_of(key: str, selection: float = 0.02, test: float = 0.02) -> Split:
    """The split that a content key (sha256, hex) belongs to: decided by the content alone.

    Args:
        key: hex digest of what makes two items the same.
        selection: fraction of the selection split, 0–1.
        test: fraction of the test split, 0–1.
    """
    place = unit_of(key)
    if place < test:
        return "test"
    return "selection" if place < test + selection else "train"
