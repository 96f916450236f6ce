"""Numbers on an axis: where the ticks go, and how a figure is written for a person."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Scale:
    """Maps values from ``low``–``high`` to coordinates from ``start``–``end``, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The coordinate of a value."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(value)
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """About ``wanted`` round values inside the range."""
        return log_ticks(self.low, self.high, wanted) if self.log else round_ticks(self.low, self.high, wanted)


def fit_scale(values: Iterable[float], start: float, end: float, *, log: bool = False, wanted: int = 5) -> Scale:
    """A scale that holds all values, widened to round ends so that no mark touches the frame."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    if not finite:
        return Scale(1.0, 10.0, start, end, log)
    low, high = min(finite), max(finite)
    if log:
        margin = max((high / low) ** 0.06, 1.05)
        return Scale(low / margin, high * margin, start, end, log=True)
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
    step = _round_step(low, high, wanted)
    return Scale(math.floor(low / step) * step, math.ceil(high / step) * step, start, end)


def _round_step(low: float, high: float, wanted: int) -> float:
    raw = (high - low) / max(wanted, 1)
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)


def round_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Multiples of a round step between ``low`` and ``high``.

    Raises:
        ValueError: the range is empty.
    """
    if not low < high:
        raise ValueError(f"an axis needs low < high, and got {low} and {high}")
    step = _round_step(low, high, wanted)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(index * step, digits) + 0.0 for index in range(first, last + 1)]


def log_ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Powers of ten between ``low`` and ``high``, with 2 and 5 in between where there is room.

    Raises:
        ValueError: the range is empty or reaches zero.
    """
    if not 0 < low < high:
        raise ValueError(f"a logarithmic axis needs 0 < low < high, and got {low} and {high}")
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors]
        inside = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(inside) >= max(2, wanted - 2):
            stride = math.ceil(len(inside) / (wanted + 2))
            return inside[::stride]
    return round_ticks(low, high, wanted)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point beats in both coordinates (smaller is better), by first coordinate."""
    order = sorted(range(len(points)), key=lambda index: points[index])
    front, best = [], math.inf
    for index in order:
        if points[index][1] < best:
            front.append(index)
            best = points[index][1]
    return front


def figure(value: float | int | None) -> str:
    """A number for a person: four significant digits, thousands separated."""
    if value is None:
        return "not measured"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{int(value):,}"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        return f"{value:.2e}"
    return f"{value:.4g}"


def short(value: float) -> str:
    """A tick label: 1500 is 1.5k."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= power:
            return f"{value / power:.3g}{letter}"
    return f"{value:.3g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.2g}"


def byte_size(count: float | None) -> str:
    """Bytes with a binary unit."""
    if count is None:
        return "unknown"
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            break
    return f"{count:.3g} {unit}" if count < 1000 else f"{count:,.0f} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "unknown"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
