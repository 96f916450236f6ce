"""Detectors: is a failure visible in these numbers?

Pure functions over windows of a metric, and `Watch`, which applies the catalogue's signals to a
running phase and speaks up once per failure. Everything is NumPy on a few hundred values: a phase
may call it at every logged step.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Kind: TypeAlias = Literal["above", "below", "variance", "rise", "flat", "not_finite", "diverging"]
Level: TypeAlias = Literal["warn", "act"]
Values: TypeAlias = "np.ndarray[Any, np.dtype[np.floating[Any]]]"


@dataclass(frozen=True)
class Signal:
    """What to look at, and when it counts as seen.

    Attributes:
        metric: the curve's name.
        kind: how it is judged: mean of the window above or below the threshold, its variance around
            its trend, its largest rise, improvement of its second half over the first below the threshold (a
            fraction), any value that is not finite, or falling together with ``against``.
        threshold: the bound; unused for ``not_finite``.
        window: steps.
        level: whether to warn or to act.
        against: the second curve of ``diverging``.
    """

    metric: str
    kind: Kind
    threshold: float = 0.0
    window: int = 100
    level: Level = "warn"
    against: str | None = None

    def describe(self) -> str:
        """The condition in words."""
        what = {
            "above": f"mean above {self.threshold:g}",
            "below": f"mean below {self.threshold:g}",
            "variance": f"variance above {self.threshold:g}",
            "rise": f"rises by more than {self.threshold:g}",
            "flat": f"improves by less than {100 * self.threshold:g}%",
            "not_finite": "NaN or infinite",
            "diverging": f"falls while {self.against} falls too",
        }[self.kind]
        return what if self.kind == "not_finite" else f"{what} over {self.window} steps"


@dataclass(frozen=True)
class Evidence:
    """A signal that was seen: where, and how far beyond its bound."""

    signal: Signal
    step: int
    measured: float

    def sentence(self) -> str:
        """For people."""
        return f"{self.signal.metric} = {self.measured:.4g} at step {self.step} ({self.signal.describe()})"


def first_not_finite(values: Values) -> int | None:
    """Index of the first NaN or infinity, None when all are finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    return int(bad[0]) if len(bad) else None


def loss_variance(values: Values) -> float:
    """Variance of the values around their line of trend, so that steady learning does not count.

    Returns:
        0 for fewer than three values.
    """
    return float(np.var(_detrended(values))) if len(values) >= 3 else 0.0


def largest_rise(values: Values) -> float:
    """Largest rise from one tenth of the values to a later one, by their means: what falls steadily has none.

    Returns:
        0 for fewer than three values.
    """
    if len(values) < 3:
        return 0.0
    means = np.array([part.mean() for part in np.array_split(values, min(10, len(values)))])
    return float(np.max(means - np.minimum.accumulate(means)))


def improvement(values: Values) -> float:
    """How much lower the mean of the second half is than that of the first, as a fraction of the first.

    Raises:
        ValueError: fewer than two values.
    """
    if len(values) < 2:
        raise ValueError(f"improvement needs at least two values, not {len(values)}")
    half = len(values) // 2
    first, second = float(np.mean(values[:half])), float(np.mean(values[half:]))
    return (first - second) / max(abs(first), 1e-12)


def plateau(values: Values, minimum: float = 0.01) -> bool:
    """Whether the values improved (fell) by less than ``minimum``, a fraction; False below four values."""
    return len(values) >= 4 and improvement(values) < minimum


def saturation(values: Values, low: float, high: float) -> float:
    """Share of values outside [low, high]; 0 for none."""
    return float(np.mean((values < low) | (values > high))) if len(values) else 0.0


def slope(values: Values) -> float:
    """Change per value of the fitted line; 0 for fewer than two values."""
    if len(values) < 2:
        return 0.0
    x = np.arange(len(values)) - (len(values) - 1) / 2
    return float(x @ values / (x @ x))


def amplification(filtered_norm: float, raw_norm: float) -> float:
    """Ratio of a filtered gradient's norm to the raw one (healthy 1.0 to 1.5); infinite for a raw norm of 0."""
    if filtered_norm < 0 or raw_norm < 0:
        raise ValueError(f"norms cannot be negative: {filtered_norm}, {raw_norm}")
    if raw_norm == 0:
        return 1.0 if filtered_norm == 0 else math.inf
    return filtered_norm / raw_norm


def memory_fraction(limit_bytes: int | None = None) -> float:
    """Resident memory of this process over its limit, or all used memory of the machine over its total."""
    import psutil

    if limit_bytes is not None:
        if limit_bytes <= 0:
            raise ValueError(f"limit_bytes must be positive, not {limit_bytes}")
        return float(psutil.Process().memory_info().rss) / limit_bytes
    memory = psutil.virtual_memory()
    return 1.0 - float(memory.available) / float(memory.total)


def disk_fraction(folder: str) -> float:
    """Share of the file system of ``folder`` that is used."""
    import shutil

    usage = shutil.disk_usage(folder)
    return 1.0 - usage.free / usage.total


def evaluate(signal: Signal, steps: Values, values: Values, against: Values | None = None) -> Evidence | None:
    """Looks for a signal in a whole curve.

    Args:
        signal: what to look for.
        steps: [N], ascending.
        values: [N].
        against: [N], the second curve of a ``diverging`` signal.

    Returns:
        The first window in which it was seen, or None.
    """
    if len(steps) != len(values):
        raise ValueError(f"{len(steps)} steps but {len(values)} values")
    if signal.kind == "not_finite":
        index = first_not_finite(values)
        return None if index is None else Evidence(signal, int(steps[index]), float(values[index]))
    finite = np.isfinite(values)
    if against is not None:
        finite &= np.isfinite(against)
        against = against[finite]
    steps, values = steps[finite], values[finite]
    for end in range(len(steps)):
        start = int(np.searchsorted(steps, steps[end] - signal.window, side="right"))
        # A window that is not yet full proves nothing: the first steps of a run are always wild.
        if steps[end] - steps[0] < signal.window - 1:
            continue
        pair = None if against is None else against[start : end + 1]
        measured = _judge(signal, values[start : end + 1], pair)
        if measured is not None:
            return Evidence(signal, int(steps[end]), measured)
    return None


class Watch:
    """Looks for signals while a phase runs.

    Args:
        signals: by failure id; `agent_forge.health.catalogue.signals_of` gives those of a phase.
        on_evidence: called once when a signal appears, again only after it was gone.
    """

    def __init__(self, signals: Mapping[str, tuple[Signal, ...]], on_evidence: Callable[[str, Evidence], None]) -> None:
        self._signals = [(failure, signal) for failure, group in signals.items() for signal in group]
        self._windows: dict[str, deque[tuple[int, float]]] = {}
        self._first: dict[str, int] = {}
        self._reach: dict[str, int] = {}
        self._active: set[tuple[str, Signal]] = set()
        self._on_evidence = on_evidence
        for _, signal in self._signals:
            for name in (signal.metric, signal.against):
                if name is not None:
                    self._reach[name] = max(self._reach.get(name, 0), signal.window)

    def feed(self, step: int, metrics: Mapping[str, float]) -> list[tuple[str, Evidence]]:
        """Takes one row, and gives what appeared with it."""
        for name in self._reach.keys() & metrics.keys():
            window = self._windows.setdefault(name, deque())
            self._first.setdefault(name, step)
            window.append((step, float(metrics[name])))
            while window[0][0] <= step - self._reach[name]:
                window.popleft()
        appeared = []
        for failure, signal in self._signals:
            if signal.metric not in metrics:
                continue
            evidence = self._look(signal, step)
            key = (failure, signal)
            if evidence is None:
                self._active.discard(key)
            elif key not in self._active:
                self._active.add(key)
                appeared.append((failure, evidence))
        for failure, evidence in appeared:
            self._on_evidence(failure, evidence)
        return appeared

    def _look(self, signal: Signal, step: int) -> Evidence | None:
        rows = [row for row in self._windows[signal.metric] if row[0] > step - signal.window]
        values = np.array([value for _, value in rows])
        if signal.kind == "not_finite":
            return None if math.isfinite(values[-1]) else Evidence(signal, step, float(values[-1]))
        if step - self._first[signal.metric] < signal.window - 1 or not np.isfinite(values).all():
            return None
        against = None
        if signal.against is not None:
            other = dict(self._windows.get(signal.against, ()))
            if any(row[0] not in other for row in rows):
                return None
            against = np.array([other[row[0]] for row in rows])
        measured = _judge(signal, values, against)
        return None if measured is None else Evidence(signal, step, measured)


def _judge(signal: Signal, window: Values, against: Values | None) -> float | None:
    """The measured value when the signal is seen in this window, else None."""
    if signal.kind in ("above", "below"):
        measured = float(np.mean(window))
        return (
            measured
            if (measured > signal.threshold) == (signal.kind == "above") and (measured != signal.threshold)
            else None
        )
    if signal.kind == "variance":
        measured = loss_variance(window)
        return measured if measured > signal.threshold else None
    if signal.kind == "rise":
        measured = largest_rise(window)
        return measured if measured > signal.threshold else None
    if signal.kind == "flat":
        return improvement(window) if plateau(window, signal.threshold) else None
    if against is None:
        raise ValueError(f"the signal on {signal.metric} needs a second curve")
    measured = slope(window)
    return measured if len(window) >= 3 and measured < 0 and slope(against) < 0 else None


def _detrended(values: Values) -> Values:
    values = values.astype(np.float64)
    x = np.arange(len(values)) - (len(values) - 1) / 2
    trend: Values = values.mean() + x * slope(values)
    return values - trend
