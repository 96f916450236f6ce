"""The tables of the registry: facts only, bytes are files.

Every table is written with the ORM's types, so that SQLite and PostgreSQL get the same schema.
Rows leave this room as the dataclasses of `agent_forge.storage.rows`, never as objects of a session.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Float, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Table(DeclarativeBase):
    """The root that Alembic compares against."""


class SessionTable(Table):
    """One execution of the pipeline."""

    __tablename__ = "sessions"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)
    status: Mapped[str] = mapped_column(String(20))
    pinned: Mapped[bool] = mapped_column(Boolean, default=False)
    config: Mapped[str] = mapped_column(Text)
    facts: Mapped[str] = mapped_column(Text, default="{}")
    created_at: Mapped[float] = mapped_column(Float)
    updated_at: Mapped[float] = mapped_column(Float)


class PhaseRunTable(Table):
    """One attempt at one phase."""

    __tablename__ = "phase_runs"
    __table_args__ = (Index("phase_runs_by_session", "session_id", "phase"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    session_id: Mapped[int] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    phase: Mapped[str] = mapped_column(String(40))
    fingerprint: Mapped[str] = mapped_column(String(64), index=True)
    attempt: Mapped[int] = mapped_column(Integer)
    status: Mapped[str] = mapped_column(String(20))
    started_at: Mapped[float] = mapped_column(Float)
    finished_at: Mapped[float | None] = mapped_column(Float, default=None)
    measured: Mapped[str] = mapped_column(Text, default="{}")
    warnings: Mapped[str] = mapped_column(Text, default="[]")
    traceback: Mapped[str | None] = mapped_column(Text, default=None)


class ArtifactTable(Table):
    """Immutable bytes with their manifest (files and facts, canonical JSON)."""

    __tablename__ = "artifacts"
    __table_args__ = (
        Index("artifacts_by_age", "created_at", "digest"),
        Index("artifacts_by_kind", "kind", "created_at", "digest"),
    )

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(40))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    manifest: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)


class HandoffTable(Table):
    """What a phase run took (``role`` "in") and gave ("out"), by handoff name and position."""

    __tablename__ = "handoffs"
    __table_args__ = (UniqueConstraint("phase_run_id", "role", "name", "position"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    phase_run_id: Mapped[int] = mapped_column(ForeignKey("phase_runs.id", ondelete="CASCADE"))
    role: Mapped[str] = mapped_column(String(3))
    name: Mapped[str] = mapped_column(String(40))
    position: Mapped[int] = mapped_column(Integer)
    digest: Mapped[str] = mapped_column(ForeignKey("artifacts.digest"), index=True)


class AttachmentTable(Table):
    """JSON for the report page; apart from ``phase_runs`` because it is large and seldom read."""

    __tablename__ = "attachments"

    phase_run_id: Mapped[int] = mapped_column(ForeignKey("phase_runs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class EventTable(Table):
    """What happened, in order. Names its session by text: events outlive deleted sessions."""

    __tablename__ = "events"
    __table_args__ = (Index("events_by_session", "session", "id"),)

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    session: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(60))
    payload: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
