"""The registry: what was run, what it gave, and what came from what.

A finished phase run is one transaction: its artifacts, its handoffs, its figures and its status are
all there or not at all, and only after every file that they name is on disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from sqlalchemy import Connection, delete, func, insert, select, update

from agent_forge.contract import Artifact, canonical_json
from agent_forge.errors import ArtifactMissing, ConfigError, ModelNotFound, SessionNotFound
from agent_forge.storage import migrations, queries
from agent_forge.storage.blobs import Blobs
from agent_forge.storage.database import Database
from agent_forge.storage.rows import (
    SESSION_STATUSES,
    ArtifactRow,
    EventRow,
    LineageRow,
    PhaseRunRow,
    SessionRow,
    manifest_json,
)
from agent_forge.storage.tables import (
    ArtifactTable,
    AttachmentTable,
    EventTable,
    HandoffTable,
    PhaseRunTable,
    SessionTable,
)

Outputs: TypeAlias = Mapping[str, Sequence[Artifact]]
REUSABLE = ("completed", "reused")
_SHORTEST_PREFIX = 4


class Registry:
    """Sessions, phase runs, artifacts and events of one home.

    Args:
        url: the database.
        blobs: the files that the artifacts are made of.
    """

    def __init__(self, url: str, blobs: Blobs) -> None:
        self.blobs = blobs
        self.database = Database(url)
        migrations.upgrade(self.database)

    def close(self) -> None:
        """Closes the database."""
        self.database.close()

    # Sessions

    def create_session(
        self, name: str, config: Mapping[str, Any], facts: Mapping[str, Any] | None = None
    ) -> SessionRow:
        """Begins a session.

        Raises:
            ConfigError: the name is taken, or cannot be a folder.
        """
        if (
            not name
            or len(name) > 200
            or name.startswith((".", "-"))
            or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
        ):
            raise ConfigError(f"{name!r} cannot name a session: use letters, digits, '-', '_' and '.'")
        now = time.time()
        with self.database.writing() as connection:
            if connection.scalar(select(SessionTable.id).where(SessionTable.name == name)) is not None:
                raise ConfigError(f"session {name!r} exists; `agent-forge resume {name}` goes on with it")
            values = {
                "name": name, "status": "created", "pinned": False, "config": canonical_json(config),
                "facts": canonical_json(facts or {}), "created_at": now, "updated_at": now,
            }  # fmt: skip
            connection.execute(insert(SessionTable).values(values))
            queries.add_event(connection, name, "session_created", {})
        return self.session(name)

    def session(self, name: str) -> SessionRow:
        """The session of that name.

        Raises:
            SessionNotFound: there is none.
        """
        with self.database.reading() as connection:
            row = connection.execute(queries.select_sessions().where(SessionTable.name == name)).mappings().first()
        if row is None:
            raise SessionNotFound(f"no session {name!r} in this home; `agent-forge sessions list` names them")
        return queries.session_row(row)

    def sessions(self) -> list[SessionRow]:
        """Every session, newest first."""
        with self.database.reading() as connection:
            rows = connection.execute(queries.select_sessions().order_by(SessionTable.id.desc())).mappings().all()
        return [queries.session_row(row) for row in rows]

    def set_session_status(self, name: str, status: str, facts: Mapping[str, Any] | None = None) -> None:
        """Notes where a session stands; ``facts`` are added to the ones it has."""
        if status not in SESSION_STATUSES:
            raise ValueError(f"session status {status!r} is none of {', '.join(SESSION_STATUSES)}")
        merged = {**self.session(name).facts, **(facts or {})}
        self._update_session(name, status=status, facts=canonical_json(merged))

    def pin(self, name: str) -> None:
        """Protects a session from every clean-up."""
        self._update_session(name, pinned=True)

    def unpin(self, name: str) -> None:
        """Takes the protection away."""
        self._update_session(name, pinned=False)

    def delete_session(self, name: str, reason: str = "asked for") -> list[str]:
        """Removes a session, its phase runs and the artifacts that no other session names; leaves an event.

        The bytes go with `agent_forge.storage.retention.collect_blobs`.

        Returns:
            Digests of the artifacts that went.

        Raises:
            SessionNotFound: there is none.
            ConfigError: it is pinned or running.
        """
        with self.database.writing() as connection:
            row = connection.execute(queries.select_sessions().where(SessionTable.name == name)).mappings().first()
            if row is None:
                raise SessionNotFound(f"no session {name!r} in this home; `agent-forge sessions list` names them")
            if row["pinned"] or row["status"] == "running":
                state = "pinned" if row["pinned"] else "running"
                raise ConfigError(f"session {name!r} is {state} and was not deleted")
            connection.execute(delete(SessionTable).where(SessionTable.id == row["id"]))
            orphans = queries.unreachable_artifacts(connection)
            connection.execute(delete(ArtifactTable).where(ArtifactTable.digest.not_in(select(HandoffTable.digest))))
            queries.add_event(connection, name, "session_deleted", {"reason": reason, "artifacts": orphans})
        return orphans

    # Phase runs

    def begin_phase_run(
        self,
        session: str,
        phase: str,
        fingerprint: str,
        attempt: int | None = None,
        inputs: Outputs | None = None,
    ) -> int:
        """Notes that a phase starts; ``attempt`` counts on from the last one when it is not given.

        Inputs that the registry does not know yet (a corpus, imported checkpoints) are registered with it.

        Returns:
            The id of the phase run.
        """
        with self.database.writing() as connection:
            session_id = queries.session_id(connection, session)
            if attempt is None:
                past = select(func.max(PhaseRunTable.attempt)).where(
                    PhaseRunTable.session_id == session_id, PhaseRunTable.phase == phase
                )
                attempt = (connection.scalar(past) or 0) + 1
            values = {
                "session_id": session_id, "phase": phase, "fingerprint": fingerprint, "attempt": attempt,
                "status": "running", "started_at": time.time(), "measured": "{}", "warnings": "[]",
            }  # fmt: skip
            phase_run_id = queries.inserted_id(connection, insert(PhaseRunTable).values(values))
            self._add_handoffs(connection, phase_run_id, "in", inputs or {})
            queries.add_event(connection, session, "phase_started", {"phase": phase, "attempt": attempt})
        return phase_run_id

    def commit_phase_run(
        self,
        phase_run_id: int,
        outputs: Outputs,
        measured: Mapping[str, float] | None = None,
        attachments: Mapping[str, Any] | None = None,
        warnings: Sequence[Mapping[str, Any]] = (),
        status: str = "completed",
    ) -> None:
        """Everything that a phase run gave, in one transaction.

        Raises:
            ArtifactMissing: a file of an output is not on disk; nothing was committed.
            DiskFull: no room; nothing was committed.
        """
        with self.database.writing() as connection:
            self._add_handoffs(connection, phase_run_id, "out", outputs)
            for name, value in (attachments or {}).items():
                row = {"phase_run_id": phase_run_id, "name": name, "value": json.dumps(value)}
                connection.execute(insert(AttachmentTable).values(row))
            queries.finish(connection, phase_run_id, status, measured=dict(measured or {}), warnings=list(warnings))

    def fail_phase_run(
        self,
        phase_run_id: int,
        status: str,
        traceback: str | None = None,
        measured: Mapping[str, float] | None = None,
        warnings: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Notes how a phase run ended without outputs."""
        with self.database.writing() as connection:
            queries.finish(
                connection, phase_run_id, status,
                measured=dict(measured or {}), warnings=list(warnings), traceback=traceback,
            )  # fmt: skip

    def abandon_running(self, session: str) -> list[int]:
        """Marks phase runs that a killed process left "running" as interrupted; only for the session's lock holder."""
        with self.database.writing() as connection:
            running = select(PhaseRunTable.id).where(
                PhaseRunTable.session_id == queries.session_id(connection, session), PhaseRunTable.status == "running"
            )
            ids = list(connection.scalars(running))
            for phase_run_id in ids:
                queries.finish(connection, phase_run_id, "interrupted")
        return ids

    def phase_run(self, phase_run_id: int) -> PhaseRunRow:
        """One phase run.

        Raises:
            KeyError: there is none of that id.
        """
        with self.database.reading() as connection:
            rows = queries.phase_run_rows(
                connection, queries.select_phase_runs().where(PhaseRunTable.id == phase_run_id)
            )
        if not rows:
            raise KeyError(phase_run_id)
        return rows[0]

    def phase_runs(self, session: str, phase: str | None = None) -> list[PhaseRunRow]:
        """The phase runs of a session, oldest first."""
        query = queries.select_phase_runs().where(SessionTable.name == session).order_by(PhaseRunTable.id)
        if phase is not None:
            query = query.where(PhaseRunTable.phase == phase)
        with self.database.reading() as connection:
            return queries.phase_run_rows(connection, query)

    def find_completed(self, fingerprint: str, statuses: Sequence[str] = REUSABLE) -> PhaseRunRow | None:
        """The newest phase run of that fingerprint whose outputs can be reused, from any session."""
        query = queries.select_phase_runs().where(
            PhaseRunTable.fingerprint == fingerprint, PhaseRunTable.status.in_(statuses)
        )
        with self.database.reading() as connection:
            rows = queries.phase_run_rows(connection, query.order_by(PhaseRunTable.id.desc()).limit(1))
        return rows[0] if rows else None

    def attachments(self, phase_run_id: int) -> dict[str, Any]:
        """The JSON that a phase run attached, by name."""
        query = select(AttachmentTable.name, AttachmentTable.value).where(AttachmentTable.phase_run_id == phase_run_id)
        with self.database.reading() as connection:
            return {name: json.loads(value) for name, value in connection.execute(query.order_by("name"))}

    # Artifacts

    def artifact(self, digest: str) -> ArtifactRow:
        """The artifact of a digest or of its first characters.

        Raises:
            ModelNotFound: none, or more than one.
        """
        if len(digest) < _SHORTEST_PREFIX or not set(digest) <= set("0123456789abcdef"):
            raise ModelNotFound(f"{digest!r} is no digest: give at least {_SHORTEST_PREFIX} of its hex characters")
        # A range on the primary key: LIKE would scan.
        query = select(ArtifactTable).where(ArtifactTable.digest >= digest, ArtifactTable.digest < digest + "g")
        with self.database.reading() as connection:
            rows = connection.execute(query.limit(3)).mappings().all()
            if len(rows) == 1:
                return queries.artifact_rows(connection, rows)[0]
        if not rows:
            raise ModelNotFound(f"no artifact {digest!r} in this home; `agent-forge models list` names them")
        raise ModelNotFound(f"{digest!r} is ambiguous: {', '.join(row['digest'][:16] for row in rows)} begin with it")

    def artifacts(self, kind: str | None = None, session: str | None = None, limit: int = 100) -> list[ArtifactRow]:
        """The newest artifacts, of one kind or one session's outputs where asked."""
        query = (
            select(ArtifactTable).order_by(ArtifactTable.created_at.desc(), ArtifactTable.digest.desc()).limit(limit)
        )
        if kind is not None:
            query = query.where(ArtifactTable.kind == kind)
        if session is not None:
            made = (
                select(HandoffTable.digest)
                .join(PhaseRunTable, PhaseRunTable.id == HandoffTable.phase_run_id)
                .join(SessionTable, SessionTable.id == PhaseRunTable.session_id)
                .where(SessionTable.name == session, HandoffTable.role == "out")
            )
            query = query.where(ArtifactTable.digest.in_(made))
        with self.database.reading() as connection:
            return queries.artifact_rows(connection, connection.execute(query).mappings().all())

    def lineage(self, digest: str) -> list[LineageRow]:
        """An artifact and all of its ancestors, nearest first.

        Raises:
            ModelNotFound: the digest is unknown.
        """
        start = self.artifact(digest).digest
        with self.database.reading() as connection:
            ancestors = queries.ancestors(connection, start)
            found = {row.digest: row for row in queries.artifacts_by_digest(connection, ancestors)}
            parents = queries.parents(connection, ancestors)
        front, depth, rows = [start], 0, dict[str, LineageRow]()
        while front:
            for each in front:
                row = found[each]
                rows[each] = LineageRow(each, row.kind, depth, row.session, row.phase, row.name, parents.get(each, ()))
            above = {parent for each in front for parent in parents.get(each, ())}
            front, depth = sorted(above - rows.keys()), depth + 1
        return list(rows.values())

    # Events

    def add_event(self, session: str | None, kind: str, payload: Mapping[str, Any] | None = None) -> None:
        """Notes that something happened."""
        with self.database.writing() as connection:
            queries.add_event(connection, session, kind, payload or {})

    def events(self, session: str | None = None, after: int = 0, limit: int = 10_000) -> list[EventRow]:
        """Events in their order, of one session or of all; ``after`` is the id of the last one seen."""
        query = select(EventTable).where(EventTable.id > after).order_by(EventTable.id).limit(limit)
        if session is not None:
            query = query.where(EventTable.session == session)
        with self.database.reading() as connection:
            return [
                EventRow(row["id"], row["session"], row["kind"], json.loads(row["payload"]), row["created_at"])
                for row in connection.execute(query).mappings()
            ]

    def _update_session(self, name: str, **values: Any) -> None:
        with self.database.writing() as connection:
            changed = connection.execute(
                update(SessionTable).where(SessionTable.name == name).values(updated_at=time.time(), **values)
            )
            if changed.rowcount == 0:
                raise SessionNotFound(f"no session {name!r} in this home; `agent-forge sessions list` names them")
            noted = {key: value for key, value in values.items() if key != "facts"}
            queries.add_event(connection, name, "session_changed", noted)

    def _add_handoffs(self, connection: Connection, phase_run_id: int, role: str, handoffs: Outputs) -> None:
        for name, artifacts in handoffs.items():
            for position, artifact in enumerate(artifacts):
                self._add_artifact(connection, artifact)
                row = {
                    "phase_run_id": phase_run_id, "role": role, "name": name, "position": position,
                    "digest": artifact.digest,
                }  # fmt: skip
                connection.execute(insert(HandoffTable).values(row))

    def _add_artifact(self, connection: Connection, artifact: Artifact) -> None:
        for name, (sha256, size) in artifact.files.items():
            if not self.blobs.holds(sha256, size):
                raise ArtifactMissing(
                    f"{name} of {artifact.kind} {artifact.digest[:12]} is not on disk "
                    f"({self.blobs.location(sha256)}); the phase has to run again"
                )
        digest = artifact.digest
        if connection.scalar(select(ArtifactTable.digest).where(ArtifactTable.digest == digest)) is None:
            row = {
                "digest": digest, "kind": artifact.kind, "size_bytes": artifact.size_bytes,
                "manifest": manifest_json(artifact), "created_at": time.time(),
            }  # fmt: skip
            connection.execute(insert(ArtifactTable).values(row))
