"""The language of the synthetic programs: how it is written, and what it does.

A program is a tree of tuples. `render` writes it in a form that looks like Python; `run` walks it and does what Python
would do. Nothing is ever given to Python's own ``exec``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

Node: TypeAlias = tuple[Any, ...]
"""(kind, parts…). Expressions: num, str, var, bin, list, at, call. Statements: set, add, if, for, each, while, print,
push, def, return."""

MAX_STEPS = 400
MAX_LINES = 8

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "//": operator.floordiv, "%": operator.mod,
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
}  # fmt: skip


class Stopped(Exception):
    """The program ran too long, printed too much or made a number too large."""


class _Returned(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


def render(program: Sequence[Node], indent: int = 0) -> str:
    """The program as text."""
    lines: list[str] = []
    pad = "    " * indent
    for node in program:
        match node:
            case ("set", name, value):
                lines.append(f"{pad}{name} = {_text(value)}")
            case ("add", name, op, value):
                lines.append(f"{pad}{name} {op}= {_text(value)}")
            case ("if", test, then, other):
                lines += [f"{pad}if {_text(test)}:", render(then, indent + 1)]
                if other:
                    lines += [f"{pad}else:", render(other, indent + 1)]
            case ("for", name, start, stop, body):
                span = _text(stop) if start == ("num", 0) else f"{_text(start)}, {_text(stop)}"
                lines += [f"{pad}for {name} in range({span}):", render(body, indent + 1)]
            case ("each", name, sequence, body):
                lines += [f"{pad}for {name} in {_text(sequence)}:", render(body, indent + 1)]
            case ("while", test, body):
                lines += [f"{pad}while {_text(test)}:", render(body, indent + 1)]
            case ("print", *values):
                lines.append(f"{pad}print({', '.join(map(_text, values))})")
            case ("push", name, value):
                lines.append(f"{pad}{name}.append({_text(value)})")
            case ("def", name, arguments, body):
                lines += [f"{pad}def {name}({', '.join(arguments)}):", render(body, indent + 1)]
            case ("return", value):
                lines.append(f"{pad}return {_text(value)}")
            case _:
                raise ValueError(f"unknown statement {node!r}")
    return "\n".join(lines)


def _text(node: Node, inner: bool = False) -> str:
    match node:
        case ("num", value):
            return f"({value})" if inner and value < 0 else str(value)
        case ("str", value):
            return f'"{value}"'
        case ("var", name):
            return str(name)
        case ("bin", op, left, right):
            text = f"{_text(left, True)} {op} {_text(right, True)}"
            return f"({text})" if inner else text
        case ("list", *values):
            return f"[{', '.join(map(_text, values))}]"
        case ("at", sequence, index):
            return f"{_text(sequence)}[{_text(index)}]"
        case ("call", name, *values):
            return f"{name}({', '.join(map(_text, values))})"
    raise ValueError(f"unknown expression {node!r}")


def run(program: Sequence[Node]) -> str:
    """What the program prints.

    Raises:
        Stopped: it takes more than 400 steps, prints more than 8 lines or makes a number of more than 9 digits.
        ValueError: it divides by zero or uses what is not there.
    """
    machine = _Machine()
    machine.block(program, machine.names)
    return "\n".join(machine.printed)


class _Machine:
    """Walks a program; counts its steps."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.functions: dict[str, tuple[Sequence[str], Sequence[Node]]] = {}
        self.printed: list[str] = []
        self.steps = 0

    def block(self, program: Sequence[Node], names: dict[str, Any]) -> None:
        """Runs statements in order."""
        for node in program:
            self.tick()
            self.statement(node, names)

    def tick(self) -> None:
        """Counts one step."""
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise Stopped

    def statement(self, node: Node, names: dict[str, Any]) -> None:
        """Runs one statement."""
        match node:
            case ("set", name, value):
                names[name] = self.value(value, names)
            case ("add", name, op, value):
                names[name] = _applied(op, names[name], self.value(value, names))
            case ("if", test, then, other):
                self.block(then if self.value(test, names) else other, names)
            case ("for", name, start, stop, body):
                for number in range(self.value(start, names), self.value(stop, names)):
                    names[name] = number
                    self.block(body, names)
            case ("each", name, sequence, body):
                for entry in list(self.value(sequence, names)):
                    names[name] = entry
                    self.block(body, names)
            case ("while", test, body):
                while self.value(test, names):
                    self.block(body, names)
            case ("print", *values):
                self.printed.append(" ".join(_shown(self.value(value, names)) for value in values))
                if len(self.printed) > MAX_LINES:
                    raise Stopped
            case ("push", name, value):
                names[name].append(self.value(value, names))
            case ("def", name, arguments, body):
                self.functions[name] = (arguments, body)
            case ("return", value):
                raise _Returned(self.value(value, names))

    def value(self, node: Node, names: dict[str, Any]) -> Any:
        """The value of an expression."""
        match node:
            case ("num", value) | ("str", value):
                return value
            case ("var", name):
                return names[name]
            case ("bin", op, left, right):
                return _applied(op, self.value(left, names), self.value(right, names))
            case ("list", *values):
                return [self.value(value, names) for value in values]
            case ("at", sequence, index):
                return self.value(sequence, names)[self.value(index, names)]
            case ("call", name, *values):
                return self.call(name, [self.value(value, names) for value in values])
        raise ValueError(f"unknown expression {node!r}")

    def call(self, name: str, values: list[Any]) -> Any:
        """Calls a function of the language or of the program."""
        builtin = {"len": len, "sum": sum, "max": max, "min": min, "sorted": sorted, "abs": abs}.get(name)
        if builtin is not None:
            return builtin(*values)  # type: ignore[operator]
        arguments, body = self.functions[name]
        self.tick()
        try:
            self.block(body, dict(zip(arguments, values, strict=True)))
        except _Returned as returned:
            return returned.value
        return None


def _applied(op: str, left: Any, right: Any) -> Any:
    if op in ("//", "%") and right == 0:
        raise ValueError("division by zero")
    found = _OPERATORS[op](left, right)
    if (isinstance(found, int) and abs(found) >= 10**9) or (isinstance(found, str) and len(found) > 80):
        raise Stopped
    return found


def _shown(value: Any) -> str:
    return f"[{', '.join(map(_quoted, value))}]" if isinstance(value, list) else str(value)


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else _shown(value)
