"""How runs look on a terminal, in a log and as JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from agent_forge.pipeline.runner import Event, Outcome, outcome_json
from agent_forge.storage.home import Home

_LINE_SECONDS = 5.0


class Watcher:
    """Shows events while a run goes on: a live display, else a line every few seconds, else JSON lines."""

    def __init__(self, as_json: bool, phases: Sequence[str]) -> None:
        self._json = as_json
        self._console = Console(stderr=True, highlight=False)
        self._live: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._phases = phases
        self._start = time.monotonic()

    def __enter__(self) -> Watcher:
        if not self._json and self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description:12}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.fields[note]}"),
                console=self._console,
            )
            self._tasks = {name: self._live.add_task(name, total=None, start=False, note="") for name in self._phases}
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def emit(self, event: Event) -> None:
        """Shows one event."""
        if self._json:
            sys.stdout.write(json.dumps({"event": event.kind, "phase": event.phase, **event.payload}) + "\n")
            sys.stdout.flush()
        elif self._live is not None:
            self._on_terminal(self._live, event)
        else:
            self._as_line(event)

    def _on_terminal(self, live: Progress, event: Event) -> None:
        task = self._tasks[event.phase]
        if event.kind == "started":
            live.start_task(task)
        elif event.kind == "progress":
            live.update(task, completed=event.payload["done"], total=event.payload["total"], note=event.payload["note"])
        elif event.kind == "log":
            live.update(task, note=_brief(event.payload["metrics"]))
        elif event.kind == "finished":
            live.start_task(task)
            live.update(task, completed=1, total=1, note=event.payload["status"])
            live.stop_task(task)
        elif text := _sentence(event):
            live.console.print(text, markup=False)

    def _as_line(self, event: Event) -> None:
        text = _sentence(event)
        if not text and event.kind in ("progress", "log"):
            now = time.monotonic()
            if now - self._last_line < _LINE_SECONDS:
                return
            self._last_line = now
            if event.kind == "progress":
                done, total = event.payload["done"], max(event.payload["total"], 1e-9)
                text = f"{event.phase}: {100 * done / total:.0f}% {event.payload['note']}"
            else:
                text = f"{event.phase}: step {event.payload['step']} {_brief(event.payload['metrics'])}"
        if text:
            print(f"[{time.monotonic() - self._start:6.1f}s] {text}", file=sys.stderr, flush=True)


def _sentence(event: Event) -> str:
    """Rare events as one line; empty for frequent ones."""
    payload = event.payload
    if event.kind == "started":
        return f"{event.phase}: started"
    if event.kind == "reused":
        return f"{event.phase}: reused"
    if event.kind == "finished" and payload["status"] == "done":
        return f"{event.phase}: done in {payload['seconds']:.1f} s, {payload['peak_memory_bytes'] / 2**20:.0f} MiB"
    if event.kind == "resumed":
        return f"{event.phase}: goes on from step {payload['step']}"
    if event.kind == "warning":
        return f"{event.phase}: warning {payload['failure']}: {payload['message']}"
    if event.kind == "degraded":
        return f"{event.phase}: left out, the run is degraded: {payload['reason']}"
    return ""


def _brief(metrics: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:.4g}" for name, value in list(metrics.items())[:4])


def show_outcome(outcome: Outcome, home: Home, as_json: bool) -> None:
    """The table of gates, the ladder of sizes, and what to type next."""
    if as_json:
        sys.stdout.write(json.dumps({"event": "outcome", **outcome_json(outcome)}) + "\n")
        return
    console = _console()
    table = Table(title=f"session {outcome.session}")
    for column in ("phase", "gate", "measured", "bound", "passed"):
        right = column in ("measured", "bound")
        table.add_column(column, justify="right" if right else "left", no_wrap=True)
    for gate in outcome.gates:
        measured = "not measured" if gate.measured is None else f"{gate.measured:.4g}"
        verdict = "yes" if gate.passed else ("NO" if gate.severity == "block" else "no (warning)")
        metric = gate.metric.removeprefix(f"{gate.phase}/")
        table.add_row(gate.phase, metric, measured, f"{gate.comparison} {gate.bound:g}", verdict)
    console.print(table)
    times = Table(title="phases")
    for column in ("phase", "status", "seconds", "peak memory, MiB"):
        times.add_column(column, justify="right" if column != "phase" else "left")
    for item in outcome.phases:
        times.add_row(item.phase, item.status, f"{item.seconds:.1f}", f"{item.peak_memory_bytes / 2**20:.0f}")
    console.print(times)
    show_ladder(home, outcome.session)
    where = f" --home {home.path}"
    console.print(f"talk to it:    agent-forge chat {outcome.session}{where}", soft_wrap=True, markup=False)
    console.print(f"look at it:    agent-forge report {outcome.session}{where}", soft_wrap=True, markup=False)


def show_ladder(home: Home, session: str) -> None:
    """Size against quality, as phase 8 measured it."""
    from agent_forge.pipeline.report import attachments

    ladder = attachments(home, session).get("ladder")
    if not ladder:
        return
    table = Table(title="size and quality")
    for column in ("form", "bytes", "bits per byte", "retention"):
        table.add_column(column, justify="left" if column == "form" else "right")
    for row in ladder:
        retention = row.get("retention")
        table.add_row(
            row["name"],
            f"{row['bytes']:,}",
            f"{row['bits_per_byte']:.4f}" if row.get("bits_per_byte") is not None else "-",
            f"{100 * retention:.2f}%" if retention is not None else "-",
        )
    _console().print(table)


def _console() -> Console:
    """A table that is cut to 80 columns hides what it should show, so a log gets the width that it needs."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def show_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A plain table."""
    table = Table(title=title)
    widest = max((len(str(row[0])) for row in rows), default=0)  # names are typed again, so they are never cut
    for number, column in enumerate(columns):
        table.add_column(column, min_width=None if number else widest)
    for row in rows:
        table.add_row(*(f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in row))
    _console().print(table)


def show_evaluation(rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per source."""
    cells = [
        (
            row["source"],
            row["documents"],
            row["bits_per_byte"],
            row["perplexity"],
            "-" if row["task_accuracy"] is None else f"{100 * row['task_accuracy']:.1f}% of {row['tasks']}",
        )
        for row in rows
    ]
    show_rows("evaluation", ("source", "documents", "bits per byte", "perplexity", "exact answers"), cells)


def show_cascade(rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per model, from the first phase to the file."""
    share = lambda value: "-" if value is None else f"{value:.1%}"  # noqa: E731
    cells = [
        (
            row["model"],
            f"{row['bytes']:,}",
            row["bits_per_byte"],
            share(row["task_accuracy"]),
            share(row["tool_accuracy"]),
            f"{1000 * row['first_token_seconds']:.1f}",
            f"{row['tokens_per_second']:.0f}",
        )
        for row in rows
    ]
    columns = ("model", "bytes", "bits per byte", "tasks", "tools", "first token, ms", "tokens/s")
    show_rows("the cascade, with PyTorch, test split", columns, cells)


def show_plan(report: Mapping[str, Any]) -> None:
    """Phases with what they need."""
    cells = [
        (
            row["phase"],
            row["status"],
            "-" if row["minutes"] is None else f"{row['minutes']:.1f}",
            "-" if row["memory_gib"] is None else f"{row['memory_gib']:.1f}",
            "-" if row["disk_mib"] is None else f"{row['disk_mib']:.0f}",
        )
        for row in report["phases"]
    ]
    show_rows("plan", ("phase", "status", "minutes", "memory, GiB", "disk, MiB"), cells)
    console = Console(highlight=False)
    if report["parameters"]:
        console.print("parameters: " + ", ".join(f"{name} {count:,}" for name, count in report["parameters"].items()))
    console.print(
        f"in all: about {report['minutes']:.1f} minutes, {report['memory_gib']:.1f} GiB of memory, "
        f"{report['disk_mib']:.0f} MiB of disk on {report['device']} with {report['threads']} threads"
    )
