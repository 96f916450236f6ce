"""Statements and row builders of the registry: each takes a connection, none begins a transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, Select, func, insert, literal, select, update

from agent_forge.contract import Artifact, canonical_json
from agent_forge.errors import SessionNotFound
from agent_forge.storage.rows import PHASE_RUN_STATUSES, ArtifactRow, PhaseRunRow, SessionRow, artifact_of
from agent_forge.storage.tables import ArtifactTable, EventTable, HandoffTable, PhaseRunTable, SessionTable


def select_sessions() -> Select[Any]:
    """Every session."""
    return select(SessionTable)


def session_row(row: RowMapping) -> SessionRow:
    """The row of a session."""
    return SessionRow(
        name=row["name"], status=row["status"], pinned=bool(row["pinned"]), config=json.loads(row["config"]),
        facts=json.loads(row["facts"]), created_at=row["created_at"], updated_at=row["updated_at"],
    )  # fmt: skip


def session_id(connection: Connection, name: str) -> int:
    """The id of a session. Raises SessionNotFound."""
    found = connection.scalar(select(SessionTable.id).where(SessionTable.name == name))
    if found is None:
        raise SessionNotFound(f"no session {name!r} in this home; `agent-forge sessions list` names them")
    return found


def inserted_id(connection: Connection, statement: Any) -> int:
    """Runs an insert and gives the id that it made."""
    key = connection.execute(statement).inserted_primary_key
    assert key is not None
    return int(key[0])


def select_phase_runs() -> Select[Any]:
    """Every phase run with the name of its session."""
    joined: Any = select(PhaseRunTable, SessionTable.name.label("session_name"))
    return joined.join(SessionTable, SessionTable.id == PhaseRunTable.session_id)


def phase_run_rows(connection: Connection, query: Select[Any]) -> list[PhaseRunRow]:
    """Phase runs with their handoffs: two queries, however many rows."""
    found = connection.execute(query).mappings().all()
    inputs: dict[int, dict[str, list[str]]] = {}
    outputs: dict[int, dict[str, list[Artifact]]] = {}
    handoffs = (
        select(HandoffTable, ArtifactTable.manifest)
        .join(ArtifactTable, ArtifactTable.digest == HandoffTable.digest)
        .where(HandoffTable.phase_run_id.in_([row["id"] for row in found]))
        .order_by(HandoffTable.name, HandoffTable.position)
    )
    for row in connection.execute(handoffs).mappings():
        if row["role"] == "in":
            inputs.setdefault(row["phase_run_id"], {}).setdefault(row["name"], []).append(row["digest"])
        else:
            artifact = artifact_of(json.loads(row["manifest"]))
            outputs.setdefault(row["phase_run_id"], {}).setdefault(row["name"], []).append(artifact)
    return [
        PhaseRunRow(
            id=row["id"], session=row["session_name"], phase=row["phase"], fingerprint=row["fingerprint"],
            attempt=row["attempt"], status=row["status"], started_at=row["started_at"],
            finished_at=row["finished_at"], measured=json.loads(row["measured"]),
            warnings=tuple(json.loads(row["warnings"])), traceback=row["traceback"],
            inputs={name: tuple(digests) for name, digests in inputs.get(row["id"], {}).items()},
            outputs={name: tuple(artifacts) for name, artifacts in outputs.get(row["id"], {}).items()},
        )
        for row in found
    ]  # fmt: skip


def artifacts_by_digest(connection: Connection, digests: Sequence[str]) -> list[ArtifactRow]:
    """The artifacts of these digests, in no order."""
    query = select(ArtifactTable).where(ArtifactTable.digest.in_(digests))
    return artifact_rows(connection, connection.execute(query).mappings().all())


def artifact_rows(connection: Connection, rows: Sequence[RowMapping]) -> list[ArtifactRow]:
    """Artifacts with their origin: the first phase run that gave them."""
    first = (
        select(HandoffTable.digest, func.min(HandoffTable.id).label("id"))
        .where(HandoffTable.role == "out", HandoffTable.digest.in_([row["digest"] for row in rows]))
        .group_by(HandoffTable.digest)
        .subquery()
    )
    query = (
        select(HandoffTable.digest, HandoffTable.name, PhaseRunTable.phase, SessionTable.name.label("session"))
        .join(first, first.c.id == HandoffTable.id)
        .join(PhaseRunTable, PhaseRunTable.id == HandoffTable.phase_run_id)
        .join(SessionTable, SessionTable.id == PhaseRunTable.session_id)
    )
    origins = {digest: (session, phase, name) for digest, name, phase, session in connection.execute(query)}
    return [
        ArtifactRow(
            row["digest"], artifact_of(json.loads(row["manifest"])), row["created_at"],
            *origins.get(row["digest"], (None, None, None)),
        )
        for row in rows
    ]  # fmt: skip


def ancestors(connection: Connection, digest: str) -> list[str]:
    """The artifact and everything that it came from, in no order: one recursive query."""
    made, taken = HandoffTable.__table__.alias("made"), HandoffTable.__table__.alias("taken")
    tree = select(literal(digest).label("digest")).cte("tree", recursive=True)
    step = (
        select(taken.c.digest)
        .join(made, (made.c.phase_run_id == taken.c.phase_run_id) & (made.c.role == "out") & (taken.c.role == "in"))
        .join(tree, tree.c.digest == made.c.digest)
    )
    return list(connection.scalars(select(tree.union(step).c.digest)))


def parents(connection: Connection, digests: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What the phase run that first gave each artifact had taken."""
    made = (
        select(HandoffTable.digest.label("child"), func.min(HandoffTable.phase_run_id).label("phase_run_id"))
        .where(HandoffTable.role == "out", HandoffTable.digest.in_(digests))
        .group_by(HandoffTable.digest)
        .subquery()
    )
    query = (
        select(made.c.child, HandoffTable.digest)
        .join(made, made.c.phase_run_id == HandoffTable.phase_run_id)
        .where(HandoffTable.role == "in")
        .order_by(HandoffTable.name, HandoffTable.position)
    )
    parents: dict[str, tuple[str, ...]] = {}
    for child, parent in connection.execute(query):
        if parent not in parents.get(child, ()):
            parents[child] = (*parents.get(child, ()), parent)
    return parents


def unreachable_artifacts(connection: Connection) -> list[str]:
    """Digests of artifacts that no phase run names."""
    named = select(HandoffTable.digest)
    return list(connection.scalars(select(ArtifactTable.digest).where(ArtifactTable.digest.not_in(named))))


def manifests_without(connection: Connection, sessions: Sequence[str]) -> list[tuple[str, str]]:
    """Digest and manifest of every artifact that would still be named if these sessions were gone."""
    query = select(ArtifactTable.digest, ArtifactTable.manifest)
    if sessions:
        named = (
            select(HandoffTable.digest)
            .join(PhaseRunTable, PhaseRunTable.id == HandoffTable.phase_run_id)
            .join(SessionTable, SessionTable.id == PhaseRunTable.session_id)
            .where(SessionTable.name.not_in(sessions))
        )
        query = query.where(ArtifactTable.digest.in_(named))
    return [(digest, manifest) for digest, manifest in connection.execute(query)]


def finish(connection: Connection, phase_run_id: int, status: str, **values: Any) -> None:
    """Ends a running phase run and leaves an event. Raises ValueError when it is not running."""
    if status not in PHASE_RUN_STATUSES:
        raise ValueError(f"phase run status {status!r} is none of {', '.join(PHASE_RUN_STATUSES)}")
    encoded = {
        key: value if value is None or key == "traceback" else json.dumps(value) for key, value in values.items()
    }
    running = (PhaseRunTable.id == phase_run_id) & (PhaseRunTable.status == "running")
    changed = connection.execute(
        update(PhaseRunTable).where(running).values(status=status, finished_at=time.time(), **encoded)
    )
    if changed.rowcount == 0:
        raise ValueError(f"phase run {phase_run_id} is not running, so it cannot become {status!r}")
    query = select_phase_runs().where(PhaseRunTable.id == phase_run_id)
    row = connection.execute(query).mappings().one()
    payload = {"phase": row["phase"], "attempt": row["attempt"], "status": status}
    add_event(connection, row["session_name"], "phase_finished", payload)


def add_event(connection: Connection, session: str | None, kind: str, payload: Mapping[str, Any]) -> None:
    """Notes that something happened."""
    row = {"session": session, "kind": kind, "payload": canonical_json(payload), "created_at": time.time()}
    connection.execute(insert(EventTable).values(row))
