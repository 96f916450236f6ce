"""What was said and done to answer one question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["thought", "call", "result", "answer"]
Stop: TypeAlias = Literal["answer", "calls", "tokens", "context"]


def printable(text: str) -> str:
    """Without control characters: a terminal would obey them."""
    return "".join(each for each in text if each.isprintable() or each in "\n\t")


@dataclass(frozen=True, slots=True)
class Turn:
    """One step.

    Attributes:
        kind: a thought, a call of a tool, its result, or the answer.
        text: what was said; of a result without its opening word.
        ok: False for the result of a call that went wrong.
        seconds: of the tool, for results.
    """

    kind: Kind
    text: str
    ok: bool = True
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """A JSON object; ``ok`` and ``seconds`` only where they mean something."""
        row: dict[str, Any] = {"kind": self.kind, "text": self.text}
        return row | ({"ok": self.ok, "seconds": round(self.seconds, 4)} if self.kind == "result" else {})


@dataclass
class Transcript:
    """The steps in order, and why they ended.

    Attributes:
        turns: thoughts, calls, results and one answer.
        stopped: ``answer`` = the model was done; ``calls`` = it wanted more calls than were allowed; ``tokens`` = the
            last turn was cut off; ``context`` = there was no room for another turn.
        num_tokens: that the model decoded, thoughts and the mark that ends each turn included.
        ids: the tokens of each of the model's turns, without that mark.
    """

    turns: list[Turn] = field(default_factory=list)
    stopped: Stop = "answer"
    num_tokens: int = 0
    ids: list[list[int]] = field(default_factory=list)

    def add_said(self, ids: list[int]) -> None:
        """Counts a turn of the model, given without the mark that ends it."""
        self.ids.append(ids)
        self.num_tokens += len(ids) + 1

    @property
    def answer(self) -> str:
        """The last thing said to the user; empty if it did not come to that."""
        return self.turns[-1].text if self.turns and self.turns[-1].kind == "answer" else ""

    @property
    def calls(self) -> list[str]:
        """The calls as they were written."""
        return [turn.text for turn in self.turns if turn.kind == "call"]

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {"answer": self.answer, "stopped": self.stopped, "turns": [turn.to_json() for turn in self.turns]}


def said(messages: Sequence[Any], transcript: Transcript) -> list[dict[str, str]]:
    """A conversation and the answer to it, to go on from; calls and thoughts are not remembered."""
    return [*messages, {"role": "assistant", "content": transcript.answer}]
