from __future__ import annotations

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.tracking.curves import metric_names, read_curves, tracking_counts
from agent_forge.tracking.local_store import LocalStore

F32 = st.floats(width=32, allow_nan=True)


def test_rows_come_back_in_float32_under_their_steps(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "m.db")
    for step in range(10):
        store.log(step, {"loss": 1 / (step + 1), "rate": 0.1})
    store.close()
    curves = read_curves(tmp_path / "m.db")
    assert metric_names(tmp_path / "m.db") == ["loss", "rate"] == list(curves)
    assert curves["loss"].steps.tolist() == list(range(10))
    assert curves["loss"].last.tolist() == [float(np.float32(1 / (step + 1))) for step in range(10)]
    assert curves["loss"].rows_per_point == 1


@settings(max_examples=20, deadline=None)
@given(rows=st.lists(st.dictionaries(st.sampled_from("abcd"), F32), max_size=40))
def test_any_rows_come_back_whatever_metrics_they_hold(
    rows: list[dict[str, float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("metrics") / "m.db"
    store = LocalStore(path)
    for step, row in enumerate(rows):
        store.log(step, row)
    store.close()
    curves = read_curves(path, points=None)
    assert set(curves) == {name for row in rows for name in row}
    for name, curve in curves.items():
        expected = [(step, row[name]) for step, row in enumerate(rows) if name in row]
        assert curve.steps.tolist() == [step for step, _ in expected]
        assert np.array_equal(curve.last, np.array([value for _, value in expected], np.float32), equal_nan=True)
    bad = {name: sum(not math.isfinite(row[name]) for row in rows if name in row) for name in curves}
    assert tracking_counts(path)["not_a_number"] == {name: count for name, count in bad.items() if count}


def test_of_equal_steps_the_later_row_counts_also_after_a_resume(tmp_path: Path) -> None:
    for attempt, steps in enumerate([range(100), range(60, 130)]):
        store = LocalStore(tmp_path / "m.db")
        for step in steps:
            store.log(step, {"attempt": float(attempt)})
        store.close()
    curve = read_curves(tmp_path / "m.db", points=None)["attempt"]
    assert curve.steps.tolist() == list(range(130))
    assert curve.last.tolist() == [0.0] * 60 + [1.0] * 70


def test_a_long_run_is_read_from_the_pyramid_and_keeps_its_extremes(tmp_path: Path) -> None:
    path, rows = tmp_path / "m.db", 20_000
    store = LocalStore(path, queue_rows=rows)
    for step in range(rows):
        store.log(step, {"loss": float(step), "spike": 1e6 if step == 12_345 else 0.0})
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute("DELETE FROM chunks WHERE id % 2 = 0")  # the pyramid alone must be enough
    connection.close()
    curves = read_curves(path, ["loss", "spike"], points=200)
    loss, spike = curves["loss"], curves["spike"]
    assert loss.rows_per_point % 64 == 0
    assert 100 <= len(loss.steps) <= 200
    assert (loss.low[0], loss.last[-1], loss.steps[-1]) == (0.0, rows - 1, rows - 1)
    assert np.array_equal(loss.last, loss.steps)
    assert float(spike.high.max()) == 1e6
    hit = int(spike.high.argmax())
    assert spike.steps[hit - 1] < 12_345 <= spike.steps[hit]


def test_thinning_a_short_run_keeps_extremes_and_the_last_row(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "m.db")
    for step in range(50):
        store.log(step, {"x": -9.0 if step == 33 else float(step)})
    store.close()
    curve = read_curves(tmp_path / "m.db", points=10)["x"]
    assert len(curve.steps) == 10
    assert curve.low.min() == -9.0
    assert curve.steps[-1] == 49
    with pytest.raises(ValueError, match="points"):
        read_curves(tmp_path / "m.db", points=1)


def test_an_absent_file_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "no.db") == {}
    assert metric_names(tmp_path / "no.db") == []
    assert tracking_counts(tmp_path / "no.db")["dropped"] == 0
    assert not (tmp_path / "no.db").exists()


def test_a_full_queue_thins_out_and_never_blocks_or_loses_count(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    LocalStore(path).close()
    blocker = sqlite3.connect(path, isolation_level=None)
    store = LocalStore(path, queue_rows=256)
    store.log(0, {"x": 0.0})
    deadline = time.monotonic() + 10
    while not metric_names(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    blocker.execute("BEGIN IMMEDIATE")  # the writer thread now stands still
    finished = threading.Event()

    def train() -> None:
        for step in range(1, 20_000):
            store.log(step, {"x": math.nan if step % 2 else float(step)})
        finished.set()

    threading.Thread(target=train, daemon=True).start()
    assert finished.wait(20)
    blocker.execute("ROLLBACK")
    blocker.close()
    store.close()
    curve = read_curves(path, points=None)["x"]
    assert len(curve.steps) < 1000
    assert len(curve.steps) + store.dropped == 20_000
    assert store.not_a_number == {"x": 10_000}
    assert tracking_counts(path)["dropped"] == store.dropped


TRAIN = """
import sys, time
from pathlib import Path
from agent_forge.tracking.local_store import LocalStore
store = LocalStore(Path(sys.argv[1]))
for step in range(10**9):
    store.log(step, {"step": float(step % 1000), "loss": 1.0})
    if step % 50 == 0:
        time.sleep(0.001)
    if step % 5000 == 0:
        print(step, flush=True)
"""


def test_a_kill_loses_only_the_last_moments(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", TRAIN, str(path)], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and len(read_curves(path, ["loss"], None)) == 0:
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    curve = read_curves(path, points=None)["step"]
    assert np.array_equal(curve.steps, np.arange(len(curve.steps)))
    assert np.array_equal(curve.last, curve.steps % 1000)
    store = LocalStore(path)
    store.log(10**6, {"step": 7.0, "loss": 1.0})
    store.close()
    assert read_curves(path, points=None)["step"].last[-1] == 7.0
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_disk_that_refuses_is_counted_and_not_raised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = LocalStore(tmp_path / "file" / "m.db")
    for step in range(10):
        store.log(step, {"x": 1.0})
    store.close()
    assert store.write_errors >= 1
    assert store.dropped == 10
    assert store.last_error is not None


def test_what_is_no_number_is_refused_at_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "m.db")
    with pytest.raises(TypeError):
        store.log(0, {"x": "high"})  # type: ignore[dict-item]
    store.close()
    assert read_curves(tmp_path / "m.db") == {}
