"""What the registry holds, as plain JSON values for the command line, the report and other programs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.config import Gate
from agent_forge.pipeline.gates import evaluate

if TYPE_CHECKING:
    from agent_forge.storage.home import Home
    from agent_forge.storage.rows import PhaseRunRow

FINISHED = ("completed", "reused", "degraded", "gate_failed")
"""Statuses of a phase run that has outputs."""
_ALL = 1_000_000
_MODELS = ("checkpoint", "agent_file")


def session_rows(home: Home) -> list[dict[str, Any]]:
    """Every session, newest first."""
    return [
        {
            "name": row.name,
            "status": row.status,
            "created": _time(row.created_at),
            "updated": _time(row.updated_at),
            "pinned": row.pinned,
            "preset": row.config.get("preset"),
            "phases": ", ".join(run.phase for run in newest_runs(home, row.name) if run.status in FINISHED),
        }
        for row in home.registry.sessions()
    ]


def session_detail(home: Home, name: str) -> dict[str, Any]:
    """One session: its configuration, and the newest run of each phase with figures, gates and warnings.

    Raises:
        SessionNotFound: there is none of that name.
    """
    row = home.registry.session(name)
    return {
        "name": row.name,
        "status": row.status,
        "pinned": row.pinned,
        "created": _time(row.created_at),
        "updated": _time(row.updated_at),
        "facts": dict(row.facts),
        "runs": [_run(run, row.config.get("gates", {})) for run in newest_runs(home, name)],
        "config": dict(row.config),
    }


def newest_runs(home: Home, session: str) -> list[PhaseRunRow]:
    """The newest run of each phase, in the order in which the phases first began."""
    newest: dict[str, PhaseRunRow] = {}
    for run in home.registry.phase_runs(session):
        newest[run.phase] = run
    return list(newest.values())


def curve_file(home: Home, run: PhaseRunRow) -> Path:
    """The curves of a phase run; those of a reused one lie with the session that computed it."""
    owner = run
    if run.status == "reused":
        owner = home.registry.find_completed(run.fingerprint, statuses=("completed",)) or run
    return home.metrics_path(owner.session, owner.phase, owner.fingerprint)


def model_rows(home: Home) -> list[dict[str, Any]]:
    """Every checkpoint and agent file, newest first."""
    users: dict[str, list[str]] = {}
    for session in home.registry.sessions():
        for artifact in home.registry.artifacts(session=session.name, limit=_ALL):
            users.setdefault(artifact.digest, []).append(session.name)
    return [
        {
            "digest": row.digest,
            "kind": row.kind,
            "phase": row.phase,
            "role": _role(row.name, row.artifact.facts),
            "size_bytes": row.size_bytes,
            "created": _time(row.created_at),
            "sessions": ", ".join(users.get(row.digest, ())),
        }
        for row in home.registry.artifacts(limit=_ALL)
        if row.kind in _MODELS
    ]


def model_detail(home: Home, digest_prefix: str) -> dict[str, Any]:
    """One artifact: origin, files and facts.

    Raises:
        ModelNotFound: no artifact, or more than one, begins with that prefix.
    """
    row = home.registry.artifact(digest_prefix)
    return {
        "digest": row.digest,
        "kind": row.kind,
        "phase": row.phase,
        "role": _role(row.name, row.artifact.facts),
        "session": row.session,
        "created": _time(row.created_at),
        "size_bytes": row.size_bytes,
        "files": {name: {"sha256": sha256, "bytes": size} for name, (sha256, size) in row.artifact.files.items()},
        "facts": dict(row.artifact.facts),
    }


def lineage_rows(home: Home, digest_prefix: str) -> list[dict[str, Any]]:
    """An artifact and all that it was made from, nearest first.

    Raises:
        ModelNotFound: no artifact, or more than one, begins with that prefix.
    """
    return [
        {
            "depth": row.depth,
            "digest": row.digest,
            "kind": row.kind,
            "phase": row.phase or "outside",
            "role": row.name,
            "session": row.session,
            "parents": list(row.parents),
        }
        for row in home.registry.lineage(digest_prefix)
    ]


def _run(run: PhaseRunRow, gates: Mapping[str, Any]) -> dict[str, Any]:
    """One phase run; its gates are judged again from what it measured, so that they can never say otherwise."""
    declared = [Gate.model_validate(gate) for gate in gates.get(run.phase, ())]
    judged = evaluate(run.phase, declared, run.measured) if run.status in FINISHED else []
    measured = {name: value for name, value in run.measured.items() if not name.startswith("run/")}
    peak = run.measured.get("run/peak_memory_bytes")
    return {
        "phase": run.phase,
        "status": run.status,
        "attempt": run.attempt,
        "started": _time(run.started_at),
        "seconds": run.measured.get("run/seconds", _elapsed(run)),
        "peak_memory_bytes": None if peak is None else int(peak),
        "fingerprint": run.fingerprint,
        "measured": measured,
        "gates": [gate.to_json() for gate in judged],
        "warnings": [dict(warning) for warning in run.warnings],
        "inputs": {name: list(digests) for name, digests in run.inputs.items()},
        "outputs": {name: [artifact.digest for artifact in made] for name, made in run.outputs.items()},
        "error": run.traceback,
    }


def _elapsed(run: PhaseRunRow) -> float | None:
    return None if run.finished_at is None else run.finished_at - run.started_at


def _role(name: str | None, facts: Mapping[str, Any]) -> str:
    """The handoff that an artifact filled, with its specialisation where it has one."""
    special = facts.get("specialization")
    return " ".join(str(part) for part in (name or "imported", special) if part)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
