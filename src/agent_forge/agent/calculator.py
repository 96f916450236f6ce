"""A calculator that runs no code: a recursive-descent parser of ``+ - * / // % **``, signs and brackets.

Values are exact fractions, so that 0.1 + 0.2 is 0.3 and large products keep every digit; what is no whole number is
shown with 12 significant digits. Precedence is Python's: ``**`` binds tighter than a sign on its left
and groups to the right, ``//`` rounds down, ``%`` has the sign of the divisor. A power with an exponent that is not
whole is a floating-point number. ``×``, ``÷``, ``·`` and ``−`` may be written for ``*``, ``/``, ``*`` and ``-``.

Limits: 200 characters, 32 brackets, signs or powers inside each other, values of 2,048 bits: no input costs more than a
few milliseconds.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from fractions import Fraction

from agent_forge.agent.schema import ToolError

MAX_CHARACTERS = 200
MAX_DEPTH = 32
MAX_BITS = 2048
_DIGITS = Context(prec=12)
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*|\.\d+)|(\*\*|//|[-+*/%()]))", re.ASCII)
_SAME = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-"})


def calculate(expression: str) -> str:
    """The value of an expression as text.

    Args:
        expression: such as ``(17 + 25) * 3``.

    Raises:
        ToolError: it is no expression, divides by zero, or is larger than the limits.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ToolError(f"the expression has {len(expression)} characters, {MAX_CHARACTERS} are allowed")
    return _Reader(_tokens(expression.translate(_SAME))).value()


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ToolError(
                f"{text[at:].strip()[:1]!r} is not part of an expression; known are numbers and + - * / // % ** ( )"
            )
        tokens.append(found.group(1) or found.group(2))
        at = found.end()
    return tokens


class _Reader:
    """Reads the tokens once, from left to right."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def value(self) -> str:
        found = self._sum()
        if self._next() is not None:
            raise ToolError(f"{self._next()!r} was not expected there")
        return _shown(found)

    def _next(self) -> str | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, *wanted: str) -> str | None:
        token = self._next()
        if token not in wanted:
            return None
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        left = self._product()
        while sign := self._take("+", "-"):
            right = self._product()
            left = _bounded(left + right if sign == "+" else left - right)
        return left

    def _product(self) -> Fraction:
        left = self._signed()
        while sign := self._take("*", "/", "//", "%"):
            right = self._signed()
            if sign != "*" and right == 0:
                raise ToolError("division by zero")
            if sign == "*":
                left = left * right
            else:
                left = left / right if sign == "/" else Fraction(left // right) if sign == "//" else left % right
            left = _bounded(left)
        return left

    def _signed(self) -> Fraction:
        sign = self._take("+", "-")
        if sign is None:
            return self._power()
        self._deeper()
        value = self._signed()
        self._depth -= 1
        return -value if sign == "-" else value

    def _power(self) -> Fraction:
        root = self._atom()
        if self._take("**") is None:
            return root
        self._deeper()
        exponent = self._signed()
        self._depth -= 1
        return _bounded(_raised(root, exponent))

    def _atom(self) -> Fraction:
        token = self._next()
        if token is None:
            raise ToolError("the expression ends too early")
        self._at += 1
        if token == "(":
            self._deeper()
            value = self._sum()
            self._depth -= 1
            if self._take(")") is None:
                raise ToolError("a bracket is not closed")
            return value
        if token[0] not in "0123456789.":
            raise ToolError(f"{token!r} was not expected there")
        return _bounded(Fraction(token))

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ToolError(f"more than {MAX_DEPTH} brackets, signs or powers inside each other")


def _raised(root: Fraction, exponent: Fraction) -> Fraction:
    if root == 0 and exponent < 0:
        raise ToolError("division by zero")
    if exponent.denominator != 1:
        if root < 0:
            raise ToolError("a negative number has no real root")
        try:
            return Fraction(float(root) ** float(exponent))
        except OverflowError:
            raise ToolError(f"the result has more than {MAX_BITS} bits") from None
        except ZeroDivisionError:  # a root below the smallest floating-point number
            raise ToolError("division by zero") from None
    if root in (0, 1, -1):
        return root ** min(int(exponent), 2 + int(exponent) % 2)  # a huge exponent costs nothing here
    # the size is known before the work is done
    if abs(exponent) * (_bits(root) - 1) > MAX_BITS:
        raise ToolError(f"the result has more than {MAX_BITS} bits")
    return root ** int(exponent)


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Fraction) -> Fraction:
    if _bits(value) > MAX_BITS:
        raise ToolError(f"the result has more than {MAX_BITS} bits")
    return value


def _shown(value: Fraction) -> str:
    if value.denominator == 1:
        return str(value.numerator)
    exact = _DIGITS.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize()
    return f"{exact:f}" if -7 < exact.adjusted() < 15 else f"{exact:e}"
