"""Hours on a clock with 24 of them."""

from __future__ import annotations


def hours_later(hour: int, later: int) -> str:
    """The hour that the clock shows ``later`` hours after ``hour``; before it, where ``later`` is negative."""
    return str((hour + later) % 24)
