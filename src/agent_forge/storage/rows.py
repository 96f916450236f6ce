"""What the registry answers with: plain frozen rows, safe to keep after the database is closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent_forge.contract import Artifact, canonical_json

SESSION_STATUSES = ("created", "running", "completed", "degraded", "failed", "interrupted")
PHASE_RUN_STATUSES = (
    "running", "completed", "reused", "degraded", "gate_failed", "failed", "timeout", "out_of_memory", "interrupted",
)  # fmt: skip


@dataclass(frozen=True)
class SessionRow:
    """One execution of the pipeline. Times are seconds since the epoch."""

    name: str
    status: str
    pinned: bool
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class PhaseRunRow:
    """One attempt at one phase; ``inputs`` as digests, ``outputs`` as artifacts, both by handoff name."""

    id: int
    session: str
    phase: str
    fingerprint: str
    attempt: int
    status: str
    started_at: float
    finished_at: float | None
    measured: Mapping[str, float]
    warnings: tuple[Mapping[str, Any], ...]
    traceback: str | None
    inputs: Mapping[str, tuple[str, ...]]
    outputs: Mapping[str, tuple[Artifact, ...]]


@dataclass(frozen=True)
class ArtifactRow:
    """An artifact with the phase run that first made it (None for an imported one)."""

    digest: str
    artifact: Artifact
    created_at: float
    session: str | None
    phase: str | None
    name: str | None

    @property
    def kind(self) -> str:
        """What it is."""
        return self.artifact.kind

    @property
    def size_bytes(self) -> int:
        """Sum of the sizes of its files."""
        return self.artifact.size_bytes


@dataclass(frozen=True)
class LineageRow:
    """One ancestor: ``depth`` 0 is the artifact itself, ``parents`` are digests one step further up."""

    digest: str
    kind: str
    depth: int
    session: str | None
    phase: str | None
    name: str | None
    parents: tuple[str, ...]


@dataclass(frozen=True)
class EventRow:
    """Something that happened."""

    id: int
    session: str | None
    kind: str
    payload: Mapping[str, Any]
    created_at: float


def manifest_json(artifact: Artifact) -> str:
    """An artifact as canonical JSON, for the registry and for the way between processes."""
    files = {name: list(entry) for name, entry in artifact.files.items()}
    return canonical_json({"kind": artifact.kind, "files": files, "facts": dict(artifact.facts)})


def artifact_of(manifest: Mapping[str, Any]) -> Artifact:
    """The artifact of a parsed manifest."""
    files = {name: (str(sha256), int(size)) for name, (sha256, size) in manifest["files"].items()}
    return Artifact(kind=manifest["kind"], files=files, facts=manifest["facts"])
