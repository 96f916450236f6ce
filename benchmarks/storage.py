"""Storage and tracking: registry queries at 10,000 models, curves against raw SQLite, cost of tracking.

``python benchmarks/storage.py [--models 10000] [--seconds 2] [--out FILE]`` prints one line per claim and writes
one JSON row. Ours and the peer take turns in one process on the same rows; medians with the range of the rounds.

The peer for curves is what one would write by hand: SQLite, one row per (step, metric, value), batches of 100 rows
per transaction, synchronous FULL. Ours stores the same values as float32 and is counted from the first `log` until
`close` has returned, so its background thread is inside the measurement.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import insert

from agent_forge.contract import Artifact, digest_of
from agent_forge.storage.home import Home
from agent_forge.storage.rows import manifest_json
from agent_forge.storage.tables import ArtifactTable, HandoffTable, PhaseRunTable, SessionTable
from agent_forge.tracking.curves import read_curves
from agent_forge.tracking.local_store import LocalStore

METRICS = 603
ROUNDS = 5
FILES = ("config.json", "model.safetensors", "forge.json")
PHASES = ("cognate", "evomerge", "bitnet", "compression")


def fill_registry(home: Home, models: int) -> list[str]:
    """Rows as the pipeline writes them, eight models a session, each made from the one before."""
    digests: list[str] = []
    sessions, runs, artifacts, handoffs = [], [], [], []
    for number in range(models):
        session, place = divmod(number, 8)
        if place == 0:
            sessions.append({"id": session + 1, "name": f"s{session}", "status": "completed", "pinned": False,
                             "config": "{}", "facts": "{}", "created_at": 1.0, "updated_at": 0.0})  # fmt: skip
        phase = PHASES[place % 4]
        runs.append({"id": number + 1, "session_id": session + 1, "phase": phase, "fingerprint": digest_of(number),
                     "attempt": 1, "status": "completed", "started_at": 0.0, "finished_at": 1.0,
                     "measured": json.dumps({"bits_per_byte": 1.0}), "warnings": "[]", "traceback": None})  # fmt: skip
        files = {name: (digest_of([number, name]), 1000) for name in FILES}
        artifact = Artifact("checkpoint", files, {"phase": phase, "number": number})
        digests.append(artifact.digest)
        artifacts.append({"digest": artifact.digest, "kind": "checkpoint", "size_bytes": 3000,
                          "manifest": manifest_json(artifact), "created_at": float(number)})  # fmt: skip
        row = {"phase_run_id": number + 1, "name": "model", "position": 0}
        handoffs.append({**row, "role": "out", "digest": artifact.digest})
        if place:
            handoffs.append({**row, "role": "in", "digest": digests[number - 1]})
    with home.registry.database.writing() as connection:
        for table, rows in ((SessionTable, sessions), (PhaseRunTable, runs), (ArtifactTable, artifacts),
                            (HandoffTable, handoffs)):  # fmt: skip
            connection.execute(insert(table), rows)
    return digests


def median_ms(call: Callable[[int], object], count: int = 200) -> tuple[float, float, float]:
    """Median and 99th percentile of one call, and its mean CPU time, in milliseconds."""
    call(0)
    times, cpu = [], time.process_time()
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(1e3 * (time.perf_counter() - began))
    cpu = 1e3 * (time.process_time() - cpu) / count
    return statistics.median(times), float(np.percentile(times, 99)), cpu


def registry(folder: Path, models: int) -> dict[str, tuple[float, float, float]]:
    """Milliseconds per query at that many models."""
    with Home.open(folder / "home") as home:
        digests = fill_registry(home, models)
        pick = lambda number: digests[(number * 7919) % models]  # noqa: E731
        queries = {
            "artifact by prefix": lambda n: home.registry.artifact(pick(n)[:16]),
            "newest 100 artifacts": lambda n: home.registry.artifacts(kind="checkpoint"),
            "artifacts of a session": lambda n: home.registry.artifacts(session=f"s{n % (models // 8)}"),
            "phase runs of a session": lambda n: home.registry.phase_runs(f"s{n % (models // 8)}"),
            "fingerprint": lambda n: home.registry.find_completed(digest_of((n * 7919) % models)),
            "lineage of 8": lambda n: home.registry.lineage(digests[8 * (n % (models // 8)) + 7]),
        }
        return {name: median_ms(query) for name, query in queries.items()}


def raw_sqlite(path: Path, names: Sequence[str], steps: int, values: np.ndarray) -> float:
    """Seconds to store the values by hand: narrow rows, 100 a transaction, synchronous FULL."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE metrics (step INTEGER, metric INTEGER, value REAL)")
    rows = [(step, index, float(values[step, index])) for step in range(steps) for index in range(len(names))]
    began = time.perf_counter()
    for start in range(0, len(rows), 100):
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("INSERT INTO metrics VALUES (?, ?, ?)", rows[start : start + 100])
        connection.execute("COMMIT")
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


def ours(path: Path, names: Sequence[str], steps: int, values: np.ndarray) -> float:
    """Seconds to log the same values and have them stored; raises when a row was thinned out."""
    rows = [dict(zip(names, map(float, values[step]), strict=True)) for step in range(steps)]
    store = LocalStore(path, queue_rows=steps + 1)
    began = time.perf_counter()
    for step, row in enumerate(rows):
        store.log(step, row)
    store.close()
    seconds = time.perf_counter() - began
    if store.dropped or store.write_errors:
        raise RuntimeError(f"{store.dropped} rows were dropped: {store.last_error}")
    return seconds


def curves(folder: Path, width: int, steps: int) -> dict[str, float]:
    """Values per second of both, taking turns."""
    names = [f"metric/{number}" for number in range(width)]
    values = np.random.default_rng(0).normal(size=(steps, width)).astype(np.float32)
    rates: dict[str, list[float]] = {"raw": [], "ours": []}
    for number in range(ROUNDS):
        for name, write in (("raw", raw_sqlite), ("ours", ours)):
            path = folder / f"{name}-{width}-{number}.db"
            rates[name].append(steps * width / write(path, names, steps, values))
    ratios = [mine / raw for mine, raw in zip(rates["ours"], rates["raw"], strict=True)]
    path = folder / f"ours-{width}-0.db"
    began = time.perf_counter()
    read_curves(path, names[:5])
    return {
        "width": width, "steps": steps, "ours_values_per_second": statistics.median(rates["ours"]),
        "raw_values_per_second": statistics.median(rates["raw"]), "ratio": statistics.median(ratios),
        "ratio_low": min(ratios), "ratio_high": max(ratios), "bytes_per_step": path.stat().st_size / steps,
        "read_5_curves_ms": 1e3 * (time.perf_counter() - began),
    }  # fmt: skip


def overhead(folder: Path, seconds: float) -> dict[str, float]:
    """Cost of tracking 603 metrics at every step of a matrix product, in one process, taking turns.

    Counted in CPU seconds of the whole process, the writing thread included: on a shared machine wall time measures
    the neighbours.
    """
    left = np.random.default_rng(0).normal(size=(700, 700))
    row = {f"metric/{number}": float(number) for number in range(METRICS)}

    def train(store: LocalStore | None) -> float:
        end, steps = time.perf_counter() + seconds, 0
        began = time.process_time()
        while time.perf_counter() < end:
            (left @ left).sum()
            if store is not None:
                store.log(steps, row)
            steps += 1
        if store is not None:
            store.close()
        return (time.process_time() - began) / steps

    times: dict[str, list[float]] = {"off": [], "on": []}
    for number in range(ROUNDS):
        times["off"].append(train(None))
        store = LocalStore(folder / f"overhead-{number}.db")
        times["on"].append(train(store))
    # Other programs only ever add time, so the fastest round of each is the cleanest.
    store = LocalStore(folder / "log.db", queue_rows=10**6)
    began = time.perf_counter()
    for step in range(1000):
        store.log(step, row)
    log_us = 1e6 * (time.perf_counter() - began) / 1000
    store.close()
    off, on = min(times["off"]), min(times["on"])
    return {"step_ms": 1e3 * off, "overhead_fraction": on / off - 1, "log_call_us": log_us}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/storage.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        queries = registry(folder, arguments.models)
        for query, (median, worst, cpu) in queries.items():
            print(f"registry, {arguments.models} models: {query}: {median:.2f} ms (99%: {worst:.2f}, CPU: {cpu:.2f})")
        rates = [curves(folder, 1, 100_000), curves(folder, METRICS, 300)]
        for rate in rates:
            print(
                f"curves, {rate['width']:.0f} metrics a step: {rate['ours_values_per_second']:,.0f} values/s, "
                f"{rate['ratio']:.2f}x of raw SQLite ({rate['ratio_low']:.2f} to {rate['ratio_high']:.2f}), "
                f"{rate['bytes_per_step']:.0f} bytes a step"
            )
        cost = overhead(folder, arguments.seconds)
        print(
            f"tracking {METRICS} metrics a step of {cost['step_ms']:.1f} CPU ms: "
            f"{100 * cost['overhead_fraction']:+.2f}%, one call {cost['log_call_us']:.0f} µs"
        )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    row = {"registry_ms": queries, "curves": rates, "tracking": cost, "models": arguments.models}
    arguments.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
