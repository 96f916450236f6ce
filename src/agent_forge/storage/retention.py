"""What may go: sessions by age and number, then every blob that nothing names any more.

Nothing that is running or pinned ever goes, nor the newest session. A plan says first what would go
and how many bytes that frees; applying it leaves an event for each session.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from agent_forge.errors import SessionBusy
from agent_forge.storage import queries
from agent_forge.storage.blobs import remove_folder
from agent_forge.storage.checkpoints import prune_states
from agent_forge.storage.home import Home
from agent_forge.storage.rows import SessionRow
from agent_forge.storage.session_lock import is_live

KEEP_SESSIONS = 50
MAX_AGE_DAYS = 30.0
GRACE_SECONDS = 3600.0
"""A blob that is younger may belong to a phase that has not committed yet."""
STATES_KEPT = {"cognate": 3}
STATES_KEPT_PER_PHASE = 5
STATES_KEPT_OVERALL = 10


@dataclass(frozen=True)
class DoomedSession:
    """A session that would go, and why."""

    name: str
    reason: str
    folder_bytes: int


@dataclass(frozen=True)
class RetentionPlan:
    """What a clean-up would take."""

    sessions: tuple[DoomedSession, ...]
    blobs: tuple[str, ...]
    blob_bytes: int

    @property
    def freed_bytes(self) -> int:
        """Bytes that applying the plan frees."""
        return self.blob_bytes + sum(session.folder_bytes for session in self.sessions)


def plan_retention(
    home: Home,
    *,
    keep_sessions: int = KEEP_SESSIONS,
    max_age_days: float = MAX_AGE_DAYS,
    grace_seconds: float = GRACE_SECONDS,
    now: float | None = None,
) -> RetentionPlan:
    """What would go; changes nothing.

    Args:
        home: an open home.
        keep_sessions: so many of the newest unprotected sessions stay.
        max_age_days: a session untouched for longer goes.
        grace_seconds: blobs younger than this stay even when nothing names them.
        now: seconds since the epoch, the clock's by default.
    """
    if keep_sessions < 1 or max_age_days <= 0:
        raise ValueError(f"keep_sessions must be at least 1 and max_age_days above 0: {keep_sessions}, {max_age_days}")
    now = time.time() if now is None else now
    doomed: dict[str, str] = {}
    free = [row for row in home.registry.sessions() if not is_protected(home, row)]
    for position, row in enumerate(free):
        age = (now - row.updated_at) / 86400
        if position >= keep_sessions:
            doomed[row.name] = f"beyond the newest {keep_sessions}"
        elif position > 0 and age > max_age_days:
            doomed[row.name] = f"{age:.0f} days old"
    sessions = tuple(DoomedSession(name, why, _folder_bytes(home, name)) for name, why in doomed.items())
    blobs = _unreachable_blobs(home, set(doomed), grace_seconds, now)
    return RetentionPlan(sessions, tuple(blobs), sum(blobs.values()))


def apply_retention(home: Home, plan: RetentionPlan) -> int:
    """Carries a plan out, checking again that each thing may still go. Returns the bytes freed."""
    freed = 0
    for session in plan.sessions:
        if not is_protected(home, home.registry.session(session.name)):
            freed += delete_session(home, session.name, reason=session.reason)
    return freed + collect_blobs(home, only=plan.blobs)


def delete_session(home: Home, name: str, reason: str = "asked for") -> int:
    """Removes a session and its folders; the blobs go with `collect_blobs`. Returns the bytes of the folders.

    Raises:
        SessionNotFound: there is none.
        SessionBusy: a live process runs it.
        ConfigError: it is pinned.
    """
    row = home.registry.session(name)
    if is_live(home.path / "sessions" / name):
        raise SessionBusy(f"session {name!r} is running and was not deleted")
    if row.status == "running":  # its process was killed
        home.registry.abandon_running(name)
        home.registry.set_session_status(name, "interrupted")
    freed = _folder_bytes(home, name)
    home.registry.delete_session(name, reason)
    home.forget_session_files(name)
    return freed


def is_protected(home: Home, row: SessionRow) -> bool:
    """Whether no clean-up may take this session."""
    return row.pinned or is_live(home.path / "sessions" / row.name)


def collect_blobs(
    home: Home, *, only: Sequence[str] | None = None, grace_seconds: float = GRACE_SECONDS, now: float | None = None
) -> int:
    """Deletes blobs and views that no artifact of the registry names. Returns the bytes freed.

    Runs under the registry's write lock: a phase run that commits at the same time either comes first and
    keeps its blobs, or finds them gone and is refused, but never names a blob that is not there.

    Args:
        home: an open home.
        only: take no other blobs than these.
        grace_seconds: blobs younger than this stay.
        now: seconds since the epoch, the clock's by default.
    """
    now = time.time() if now is None else now
    freed = 0
    with home.registry.database.write_lock():
        doomed = _unreachable_blobs(home, set(), grace_seconds, now)
        for sha256 in doomed if only is None else set(only) & set(doomed):
            freed += home.blobs.remove(sha256)
        known = _reachable(home)[0]
        for view in home.blobs.views.iterdir():
            if view.name not in known and now - view.stat().st_ctime > grace_seconds:
                remove_folder(view)
    return freed


def prune_session_states(home: Home, session: str) -> int:
    """Keeps the newest states only: so many per phase, so many in all. Returns the bytes freed."""
    freed, newest_first = 0, list[Path]()
    for folder in sorted((home.path / "scratch" / session).glob("*")):
        phase = folder.name.rpartition("-")[0]
        for states in {path.parent for path in folder.rglob("step-*.json")}:
            freed += prune_states(states, STATES_KEPT.get(phase, STATES_KEPT_PER_PHASE))
            newest_first += sorted(states.glob("step-*.json"))
    newest_first.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    kept: dict[Path, int] = {}
    for path in newest_first[:STATES_KEPT_OVERALL]:
        kept[path.parent] = kept.get(path.parent, 0) + 1
    for folder in {path.parent for path in newest_first}:
        freed += prune_states(folder, max(1, kept.get(folder, 0)))
    return freed


def _reachable(home: Home, without: set[str] | None = None) -> tuple[set[str], set[str]]:
    """Digests of artifacts that stay, and of the blobs that they are made of."""
    with home.registry.database.reading() as connection:
        kept = queries.manifests_without(connection, sorted(without or ()))
    blobs = {sha256 for _, manifest in kept for sha256, _ in json.loads(manifest)["files"].values()}
    return {digest for digest, _ in kept}, blobs


def _unreachable_blobs(home: Home, without: set[str], grace_seconds: float, now: float) -> dict[str, int]:
    """Blobs that no kept artifact names and that are old enough, with their sizes."""
    _, named = _reachable(home, without)
    found: dict[str, int] = {}
    for sha256, path in home.blobs.names():
        if sha256 not in named:
            status = path.stat()
            if now - status.st_mtime > grace_seconds:
                found[sha256] = status.st_size
    return found


def _folder_bytes(home: Home, session: str) -> int:
    rooms = [home.path / room / session for room in ("sessions", "scratch", "metrics")]
    files = (path for room in rooms if room.is_dir() for path in room.rglob("*"))
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())
