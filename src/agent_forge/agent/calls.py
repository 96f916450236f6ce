"""The syntax of a call: a turn of the assistant that is exactly ``name(arguments)``, and nothing else.

The result comes back as the user's next turn, ``result: …``; what went wrong as ``result: error: …``. A tool with
n parameters splits its arguments at the first n − 1 commas, so that the last one may hold commas, brackets and lines
of its own (an expression, a program). What merely looks like a call is one only if the toolbox has a tool of
that name: an answer such as ``print(3)`` stays an answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""Names of tools: a subset of what the Model Context Protocol allows."""
RESULT = "result: "
_CALL = re.compile(rf"\s*({NAME.pattern})\((.*)\)\s*", re.DOTALL)
_OPENING = re.compile(rf"\s*({NAME.pattern})?(\(.*)?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Call:
    """One wish to use a tool.

    Attributes:
        name: of the tool.
        arguments: the text between the outer brackets.
    """

    name: str
    arguments: str

    def __str__(self) -> str:
        """The call as the model writes it."""
        return f"{self.name}({self.arguments})"


def parse_call(text: str) -> Call | None:
    """The call that a turn is, or None where it is an answer."""
    found = _CALL.fullmatch(text)
    return Call(found.group(1), found.group(2).strip()) if found else None


def may_become_call(text: str) -> bool:
    """Whether a turn that begins so can still turn out to be a call (what is shown to the user waits for that)."""
    return _OPENING.fullmatch(text) is not None


def result_turn(text: str, ok: bool) -> str:
    """What the model reads after its call."""
    return f"{RESULT}{text}" if ok else f"{RESULT}error: {text}"
