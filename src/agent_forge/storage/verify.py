"""Is everything that the registry names on disk and unaltered? Reads all bytes, changes none."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from sqlalchemy import select, text

from agent_forge.errors import ArtifactCorrupt
from agent_forge.storage import durable
from agent_forge.storage.checkpoints import damaged_states
from agent_forge.storage.database import sqlite_version
from agent_forge.storage.home import Home, temporary_files
from agent_forge.storage.tables import ArtifactTable


@dataclass
class VerifyReport:
    """What `verify` found. ``problems`` are sentences; the other lists name blobs, artifacts or paths.

    Attributes:
        files: blobs that were hashed.
        size_bytes: their bytes.
        artifacts: rows that were checked.
        missing: artifacts whose files are not all on disk.
        corrupt: blobs whose bytes have another digest, with the artifacts that they damage.
        orphan_blobs: blobs that no artifact names: no damage, `sessions gc` takes them.
        temporary: temporary files of dead processes: no damage, the next opening takes them.
        damaged_states: states of running phases that a resume would pass over.
        integrity: the database's own check, "ok" when good.
        sqlite: the linked SQLite; ``sqlite_safe`` is false for versions with the WAL-reset bug.
    """

    files: int = 0
    size_bytes: int = 0
    artifacts: int = 0
    missing: dict[str, list[str]] = field(default_factory=dict)
    corrupt: dict[str, list[str]] = field(default_factory=dict)
    orphan_blobs: list[str] = field(default_factory=list)
    temporary: list[str] = field(default_factory=list)
    damaged_states: list[str] = field(default_factory=list)
    integrity: str = ""
    sqlite: str = ""
    sqlite_safe: bool = True
    seconds: float = 0.0

    @property
    def problems(self) -> list[str]:
        """One sentence for everything that is damaged; empty when all is well."""
        lines = [f"artifact {digest} lacks {', '.join(names)}" for digest, names in self.missing.items()]
        lines += [
            f"blob {sha256} was altered; it damages {', '.join(artifact[:12] for artifact in artifacts) or 'nothing'}"
            for sha256, artifacts in self.corrupt.items()
        ]
        lines += [f"state {path} is damaged; resume falls back to an older one" for path in self.damaged_states]
        if self.integrity != "ok":
            lines.append(f"the registry is damaged: {self.integrity}")
        return lines

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems


def verify(home: Home) -> VerifyReport:
    """Hashes every blob, checks every row and every state.

    Args:
        home: an open home; others may go on using it meanwhile.
    """
    began, report = time.monotonic(), VerifyReport()
    report.sqlite, report.sqlite_safe = sqlite_version()
    _check_database(home, report)
    users: dict[str, list[str]] = {}
    if report.integrity == "ok":
        _check_artifacts(home, report, users)
    for sha256, path in home.blobs.names():
        try:
            found, size = durable.sha256_of(path)
        except FileNotFoundError:  # a clean-up took it meanwhile
            continue
        report.files += 1
        report.size_bytes += size
        if found != sha256:
            report.corrupt[sha256] = users.get(sha256, [])
        if sha256 not in users:
            report.orphan_blobs.append(sha256)
    now = time.time()
    report.temporary = [str(path) for path in temporary_files(home.path) if durable.is_orphan(path, now)]
    for folder in {path.parent for path in (home.path / "scratch").rglob("step-*.json")}:
        report.damaged_states += [str(path) for path in damaged_states(folder)]
    report.seconds = time.monotonic() - began
    return report


def _check_database(home: Home, report: VerifyReport) -> None:
    database = home.registry.database
    if not database.is_sqlite:
        report.integrity = "ok"
        return
    try:
        with database.reading() as connection:
            lines = list(connection.execute(text("PRAGMA integrity_check")).scalars())
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    except ArtifactCorrupt as error:
        report.integrity = str(error)
        return
    lines += [f"{row[0]} row {row[1]} names a {row[2]} that is not there" for row in broken]
    report.integrity = "ok" if lines == ["ok"] else "; ".join(line for line in lines if line != "ok")


def _check_artifacts(home: Home, report: VerifyReport, users: dict[str, list[str]]) -> None:
    with home.registry.database.reading() as connection:
        rows = connection.execute(select(ArtifactTable.digest, ArtifactTable.manifest)).all()
    for digest, manifest in rows:
        report.artifacts += 1
        for name, (sha256, size) in json.loads(manifest)["files"].items():
            users.setdefault(sha256, []).append(digest)
            if not home.blobs.location(sha256).is_file():
                report.missing.setdefault(digest, []).append(f"{name} ({sha256}, {size} bytes)")
