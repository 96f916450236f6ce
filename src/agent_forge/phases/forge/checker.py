"""Is an answer right, and are its steps? A program decides, never the model.

The answer must be the exact answer (`agent_forge.evaluation.tasks.normalised`). Steps may be worded freely, but every
equation in them must hold: a right answer by wrong steps is luck, and would teach the steps.
"""

from __future__ import annotations

import re

from agent_forge.data.documents import Task
from agent_forge.evaluation.tasks import normalised

_EQUATION = re.compile(r"(-?\d+)((?:\s*[-+*/]\s*-?\d+)+)\s*=\s*(-?\d+)")
_TERM = re.compile(r"([-+*/])\s*(-?\d+)")
_MOST_DIGITS = 15


def verified(task: Task, said: str) -> bool:
    """Whether ``said`` ends in the exact answer and every equation in it holds."""
    return normalised(said) == normalised(task.answer) and equations_hold(said)


def equations_hold(text: str) -> bool:
    """Whether every ``a + b * c = d`` in ``text`` is true; a text without equations has none that is false."""
    return all(_holds(*match.groups()) for match in _EQUATION.finditer(text))


def _holds(first: str, rest: str, result: str) -> bool:
    """Products before sums, whole numbers; a division must come out even."""
    if max(map(len, re.findall(r"\d+", first + rest + result))) > _MOST_DIGITS:
        return False
    sums, product = 0, int(first)
    for operation, term in _TERM.findall(rest):
        value = int(term)
        if operation == "*":
            product *= value
        elif operation == "/":
            if value == 0 or product % value:
                return False
            product //= value
        else:
            sums, product = sums + product, value if operation == "+" else -value
    return sums + product == int(result)
