"""The local store of curves: one SQLite file per phase run, float32, written by a thread of its own.

Three tables: ``layouts`` (which metrics a row holds, in order), ``chunks`` (consecutive rows of one
layout, steps as int64 and values as float32), ``pyramid`` (min, max and last of every 64 and 4,096
rows, for plots that do not read everything). SQLite runs with synchronous NORMAL: a kill loses what
was logged in the last `FLUSH_SECONDS`, a power cut a little more, and neither damages the file.

Training comes first: a full queue drops every second row and then takes only every second one, a
full disk drops rows; both are counted and shown, neither blocks nor raises.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

FLUSH_SECONDS = 0.5
CHUNK_ROWS = 1024
PYRAMID_FANOUT = 64
PYRAMID_LEVELS = 2
SCHEMA = """
CREATE TABLE IF NOT EXISTS layouts (id INTEGER PRIMARY KEY, names TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS chunks (
  id INTEGER PRIMARY KEY, layout INTEGER NOT NULL, count INTEGER NOT NULL,
  steps BLOB NOT NULL, seconds BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS pyramid (
  level INTEGER NOT NULL, layout INTEGER NOT NULL, writer INTEGER NOT NULL, bucket INTEGER NOT NULL,
  first_step INTEGER NOT NULL, last_step INTEGER NOT NULL, data BLOB NOT NULL,
  PRIMARY KEY (level, layout, writer, bucket)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS writers (id INTEGER PRIMARY KEY, last_chunk INTEGER NOT NULL, counts TEXT NOT NULL);
"""

Row: TypeAlias = "tuple[int, float, tuple[str, ...], array[float]]"


class LocalStore:
    """A `Tracker` that writes to one file.

    Args:
        path: the file; rows are added when it is there (a resumed phase run).
        queue_rows: rows that may wait for the writer before they are thinned out.

    Attributes:
        dropped: rows thinned out or lost to a full disk.
        not_a_number: values that were NaN or infinite, by metric.
        write_errors: times that the disk refused a batch.
        last_error: what it said last.
    """

    def __init__(self, path: Path, *, queue_rows: int = 8192) -> None:
        self.path, self.queue_rows = path, queue_rows
        self.dropped, self.write_errors = 0, 0
        self.not_a_number: dict[str, int] = {}
        self.last_error: str | None = None
        self._began = time.monotonic()
        self._pending: list[Row] = []
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._stride, self._skipped = 1, 0
        self._writer = _Writer(path)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row; costs microseconds and never raises for the disk.

        Raises:
            TypeError: a value is not a number.
        """
        row = (step, time.monotonic() - self._began, tuple(metrics), array("f", metrics.values()))
        with self._mutex:
            if self._stride > 1:
                self._skipped = (self._skipped + 1) % self._stride
                if self._skipped:
                    self._drop([row])
                    return
            self._pending.append(row)
            if len(self._pending) > self.queue_rows:
                self._drop(self._pending[1::2])
                self._pending = self._pending[::2]
                self._stride *= 2
        if 2 * len(self._pending) >= self.queue_rows:
            self._wake.set()

    def close(self) -> None:
        """Writes what is left; waits up to ten seconds."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout=10)

    def _drop(self, rows: list[Row]) -> None:
        """Counts rows that will not be written; what was not a number in them is still counted."""
        self.dropped += len(rows)
        for _, _, names, values in rows:
            self._count_not_a_number(names, np.frombuffer(values, np.float32)[None])

    def _count_not_a_number(self, names: tuple[str, ...], values: np.ndarray[Any, Any]) -> None:
        bad = (~np.isfinite(values)).sum(axis=0)
        for index in np.flatnonzero(bad):
            self.not_a_number[names[index]] = self.not_a_number.get(names[index], 0) + int(bad[index])

    def _run(self) -> None:
        while True:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            closing = self._closing
            with self._mutex:
                rows, self._pending = self._pending, []
                if len(rows) < self.queue_rows // 2:
                    self._stride = 1
            if rows:
                self._write(rows)
            if closing:
                break
        self._writer.close()

    def _write(self, rows: list[Row]) -> None:
        batches = _batches(rows)
        for names, _, _, values in batches:
            with self._mutex:
                self._count_not_a_number(names, values)
        counts = {"dropped": self.dropped, "write_errors": self.write_errors, "not_a_number": self.not_a_number}
        try:
            self._writer.write(batches, counts)
        except (sqlite3.Error, OSError) as error:
            self._writer.close()
            with self._mutex:
                self.write_errors += 1
                self.last_error = str(error)
                self.dropped += len(rows)


Batch: TypeAlias = "tuple[tuple[str, ...], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]"


def _batches(rows: list[Row]) -> list[Batch]:
    """Neighbouring rows of equal layout as arrays: names, steps int64 [N], seconds [N], values [N, M]."""
    batches, start = [], 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end][2] != rows[start][2] or end - start == CHUNK_ROWS:
            part = rows[start:end]
            values = np.frombuffer(b"".join([row[3] for row in part]), np.float32).reshape(len(part), -1)
            steps = np.array([row[0] for row in part], np.int64)
            seconds = np.array([row[1] for row in part], np.float32)
            batches.append((part[0][2], steps, seconds, values))
            start = end
    return batches


class _Writer:
    """The connection of the writing thread, opened when first needed and again after an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection: sqlite3.Connection | None = None
        self._layouts: dict[tuple[str, ...], int] = {}
        self._writer_id = 0
        self._summaries: dict[tuple[int, int], _Summary] = {}

    def write(self, batches: list[Batch], counts: Mapping[str, Any]) -> None:
        connection = self._connection or self._open()
        connection.execute("BEGIN IMMEDIATE")
        chunk = 0
        for names, steps, seconds, values in batches:
            layout = self._layouts.get(names) or self._layout(connection, names)
            row = (layout, len(steps), steps.tobytes(), seconds.tobytes(), values.tobytes())
            statement = "INSERT INTO chunks (layout, count, steps, seconds, data) VALUES (?, ?, ?, ?, ?)"
            chunk = connection.execute(statement, row).lastrowid or 0
            self._summarise(connection, layout, steps, values)
        connection.execute(
            "INSERT OR REPLACE INTO writers VALUES (?, ?, ?)", (self._writer_id, chunk, json.dumps(counts))
        )
        connection.execute("COMMIT")

    def close(self) -> None:
        """Closes the connection. Rows of an open transaction are lost, and so are unfinished summaries of them."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            self._layouts, self._summaries = {}, {}
            try:
                connection.close()
            except sqlite3.Error:
                return

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=30, check_same_thread=False)
        self._connection = connection
        # 16 KB pages: a row of 603 float32 wastes 40% of the usual 4 KB pages.
        connection.execute("PRAGMA page_size=16384")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(SCHEMA)
        found = connection.execute("SELECT coalesce(max(id), 0) + 1 FROM writers").fetchone()
        self._writer_id = int(found[0])
        return connection

    def _layout(self, connection: sqlite3.Connection, names: tuple[str, ...]) -> int:
        text = json.dumps(names)
        connection.execute("INSERT OR IGNORE INTO layouts (names) VALUES (?)", (text,))
        found = connection.execute("SELECT id FROM layouts WHERE names = ?", (text,)).fetchone()
        self._layouts[names] = int(found[0])
        return self._layouts[names]

    def _summarise(
        self, connection: sqlite3.Connection, layout: int, steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
    ) -> None:
        for level in range(1, PYRAMID_LEVELS + 1):
            summary = self._summaries.setdefault((level, layout), _Summary(PYRAMID_FANOUT**level))
            for bucket, first, last, data in summary.add(steps, values):
                connection.execute(
                    "INSERT OR REPLACE INTO pyramid VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (level, layout, self._writer_id, bucket, first, last, data.tobytes()),
                )


class _Summary:
    """Min, max and last of every ``size`` rows of one layout, finished or not: the last bucket is written again."""

    def __init__(self, size: int) -> None:
        self.size, self.bucket, self.count = size, 0, 0
        self.first = 0
        self.data: np.ndarray[Any, Any] | None = None

    def add(
        self, steps: np.ndarray[Any, Any], values: np.ndarray[Any, Any]
    ) -> list[tuple[int, int, int, np.ndarray[Any, Any]]]:
        """Buckets that changed: number, first and last step, [3, M] float32."""
        changed, start = [], 0
        while start < len(steps):
            end = min(len(steps), start + self.size - self.count)
            part = values[start:end]
            # fmin and fmax pass over NaN, which is counted elsewhere.
            low, high = np.fmin.reduce(part, axis=0), np.fmax.reduce(part, axis=0)
            if self.data is None:
                self.first = int(steps[start])
                self.data = np.stack([low, high, part[-1]])
            else:
                self.data = np.stack([np.fmin(self.data[0], low), np.fmax(self.data[1], high), part[-1]])
            changed.append((self.bucket, self.first, int(steps[end - 1]), self.data))
            self.count += end - start
            if self.count == self.size:
                self.bucket, self.count, self.data = self.bucket + 1, 0, None
            start = end
        return changed
