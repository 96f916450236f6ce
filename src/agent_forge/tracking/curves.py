"""Reading curves: every row for short runs, the pyramid for long ones."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from agent_forge.tracking.local_store import PYRAMID_FANOUT, PYRAMID_LEVELS

Floats: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"


@dataclass(frozen=True)
class Curve:
    """One metric over steps. With ``rows_per_point`` 1 all three of ``last``, ``low`` and ``high`` are the values.

    Attributes:
        steps: int64 [N], ascending; the last step of each point.
        last: float32 [N], the value at that step.
        low: float32 [N], the smallest value of the rows behind the point (NaN where all are).
        high: float32 [N], the largest.
        rows_per_point: how many rows a point stands for.
    """

    steps: np.ndarray[Any, np.dtype[np.int64]]
    last: Floats
    low: Floats
    high: Floats
    rows_per_point: int = 1


def metric_names(path: Path) -> list[str]:
    """Every metric of a file, sorted; empty when there is no file."""
    return sorted({name for _, names in _layouts(path) for name in names})


def tracking_counts(path: Path) -> dict[str, Any]:
    """What the writers counted: ``dropped``, ``write_errors`` and ``not_a_number`` by metric, summed."""
    total: dict[str, Any] = {"dropped": 0, "write_errors": 0, "not_a_number": {}}
    if path.is_file():
        with _connected(path) as connection:
            for (text,) in connection.execute("SELECT counts FROM writers ORDER BY id"):
                counts = json.loads(text)
                for key in ("dropped", "write_errors"):
                    total[key] += counts[key]
                for name, count in counts["not_a_number"].items():
                    total["not_a_number"][name] = total["not_a_number"].get(name, 0) + count
    return total


def read_curves(path: Path, names: Sequence[str] | None = None, points: int | None = 1000) -> dict[str, Curve]:
    """The curves of a file, thinned to about ``points`` points; metrics that it does not hold are left out.

    Args:
        path: the file of a phase run; an absent one gives no curves.
        names: metrics, all by default.
        points: upper bound of the points per curve, at least 2; None gives every row.
    """
    if points is not None and points < 2:
        raise ValueError(f"points must be at least 2, not {points}")
    curves: dict[str, list[tuple[Any, Floats, Floats, Floats, int]]] = {}
    if not path.is_file():
        return {}
    with _connected(path) as connection:
        for layout, held in _layouts(path):
            wanted = [name for name in held if names is None or name in names]
            if not wanted:
                continue
            columns = [held.index(name) for name in wanted]
            steps, low, high, last, size = _read_layout(connection, layout, len(held), columns, points)
            for index, name in enumerate(wanted):
                curves.setdefault(name, []).append((steps, low[:, index], high[:, index], last[:, index], size))
    return {name: _thin(_join(parts), points) for name, parts in sorted(curves.items())}


def _read_layout(
    connection: sqlite3.Connection, layout: int, width: int, columns: list[int], points: int | None
) -> tuple[Any, Any, Any, Any, int]:
    """Steps [N], low, high and last [N, columns] of one layout, and the rows behind each point."""
    query = "SELECT coalesce(sum(count), 0) FROM chunks WHERE layout = ?"
    rows = int(connection.execute(query, (layout,)).fetchone()[0])
    level = 0
    # The coarsest level that still gives half of the points asked for.
    while points is not None and level < PYRAMID_LEVELS and 2 * rows >= points * PYRAMID_FANOUT ** (level + 1):
        level += 1
    if level:
        return (*_read_pyramid(connection, layout, width, columns, level), PYRAMID_FANOUT**level)
    steps, data = [np.empty(0, np.int64)], [np.empty((0, len(columns)), np.float32)]
    query = "SELECT count, steps, data FROM chunks WHERE layout = ? ORDER BY id"
    for count, step_bytes, data_bytes in connection.execute(query, (layout,)):
        steps.append(np.frombuffer(step_bytes, np.int64))
        data.append(np.frombuffer(data_bytes, np.float32).reshape(count, width)[:, columns])
    values = np.concatenate(data)
    return np.concatenate(steps), values, values, values, 1


def _read_pyramid(
    connection: sqlite3.Connection, layout: int, width: int, columns: list[int], level: int
) -> tuple[Any, Any, Any, Any]:
    query = "SELECT last_step, data FROM pyramid WHERE level = ? AND layout = ? ORDER BY writer, bucket"
    found = connection.execute(query, (level, layout)).fetchall()
    steps = np.array([step for step, _ in found], np.int64)
    data = np.stack([np.frombuffer(data, np.float32).reshape(3, width)[:, columns] for _, data in found])
    return steps, data[:, 0], data[:, 1], data[:, 2]


def _join(parts: list[tuple[Any, Floats, Floats, Floats, int]]) -> Curve:
    """Parts of several layouts and writers in the order of their steps; of equal steps the later row counts."""
    steps = np.concatenate([part[0] for part in parts])
    low, high, last = (np.concatenate([part[index] for part in parts]) for index in (1, 2, 3))
    # unique of the reversed steps finds the last row of each step.
    unique, position = np.unique(steps[::-1], return_index=True)
    order = len(steps) - 1 - position
    return Curve(unique, last[order], low[order], high[order], max(part[4] for part in parts))


def _thin(curve: Curve, points: int | None) -> Curve:
    count = len(curve.steps)
    if points is None or count <= points:
        return curve
    size = -(-count // points)
    starts = np.arange(0, count, size)
    ends = np.minimum(starts + size, count) - 1
    return Curve(
        curve.steps[ends],
        curve.last[ends],
        np.fmin.reduceat(curve.low, starts),
        np.fmax.reduceat(curve.high, starts),
        curve.rows_per_point * size,
    )


def _layouts(path: Path) -> list[tuple[int, list[str]]]:
    if not path.is_file():
        return []
    with _connected(path) as connection:
        try:
            found = connection.execute("SELECT id, names FROM layouts ORDER BY id").fetchall()
        except sqlite3.OperationalError:  # the writer has not made its tables yet
            return []
    return [(layout, json.loads(names)) for layout, names in found]


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        yield connection
    finally:
        connection.close()
