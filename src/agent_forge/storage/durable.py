"""Bytes that survive: same-folder temporary file → fsync → rename → fsync of the folder.

A rename is atomic only inside one file system, and durable only after the folder itself is synced;
the bytes must be synced before the rename, or a power cut leaves the name with nothing behind it.
Every file that the storage room publishes goes through here, so a test can record or fail each step.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_forge.errors import DiskFull, HomeReadOnly
from agent_forge.storage.processes import ProcessMark

TEMPORARY_PREFIX = ".tmp-"
"""Starts the name of every temporary file; the owner's mark follows."""
CHUNK_BYTES = 1 << 20
DEFAULT_RESERVE_BYTES = 64 << 20
"""Room that a save must leave free, so that the registry can still commit."""
UNKNOWN_OWNER_SECONDS = 3600.0
"""A temporary file of another boot or container counts as orphaned when untouched for so long."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_counter = itertools.count()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one readable error.

    Raises:
        DiskFull: no room, quota or file-size limit reached.
        HomeReadOnly: the place cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"no room to write {path} ({error.strerror}); nothing that was stored is lost: free some space "
                "(`agent-forge sessions gc`) and resume"
            ) from error
        if error.errno in _READ_ONLY:
            raise HomeReadOnly(f"cannot write {path}: {error.strerror}; choose another --home") from error
        raise


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write on the file system of ``folder``."""
    if not hasattr(os, "statvfs"):  # Windows
        import shutil

        return shutil.disk_usage(folder).free
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def require_space(folder: Path, need_bytes: int, reserve_bytes: int) -> None:
    """Refuses a write before its first byte when it would not leave the reserve.

    Raises:
        DiskFull: free space < need + reserve.
    """
    free = free_bytes(folder)
    if free < need_bytes + reserve_bytes:
        raise DiskFull(
            f"{folder} has {free / 1e6:.1f} MB free, {need_bytes / 1e6:.1f} MB are needed with "
            f"{reserve_bytes / 1e6:.1f} MB in reserve; nothing that was stored is lost: free some space "
            "(`agent-forge sessions gc`) and resume"
        )


def temporary_path(folder: Path) -> Path:
    """A name in ``folder`` that tells which process writes it."""
    return folder / f"{TEMPORARY_PREFIX}{ProcessMark.mine().text()}-{next(_counter)}"


def is_orphan(path: Path, now: float) -> bool:
    """Whether no live process owns this temporary file or folder. ``now``: seconds since the epoch."""
    mark = ProcessMark.parse(path.name.removeprefix(TEMPORARY_PREFIX))
    alive = None if mark is None else mark.alive()
    if alive is not None:
        return not alive
    try:
        return now - path.stat().st_mtime > UNKNOWN_OWNER_SECONDS
    except FileNotFoundError:
        return False


def fsync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_file(path: Path) -> None:
    """Makes the bytes of ``path`` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates ``folder`` and its parents durably: each new name is synced in its parent."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for child in reversed(missing):
        os.makedirs(child, exist_ok=True)
        fsync_folder(child.parent)


def write_temporary(folder: Path, pieces: Iterable[bytes | memoryview]) -> tuple[Path, str, int]:
    """Writes and syncs a temporary file; gone again when anything fails.

    Returns:
        Its path, the sha256 of its bytes and their number.
    """
    path = temporary_path(folder)
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        for piece in pieces:
            digest.update(piece)
            view = memoryview(piece)
            while view.nbytes:
                written = os.write(descriptor, view)
                size += written
                view = view[written:]
        os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        path.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    return path, digest.hexdigest(), size


def publish(temporary: Path, path: Path, *, read_only: bool = False) -> None:
    """Gives a synced temporary file its name, durably. The old file of that name is replaced at once."""
    try:
        if read_only:
            os.chmod(temporary, 0o444)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def publish_bytes(path: Path, data: bytes) -> None:
    """Replaces the small file ``path`` by ``data``: a kill at any instant leaves the old bytes or all of the new."""
    with disk_errors(path):
        temporary, _, _ = write_temporary(path.parent, [data])
        publish(temporary, path)


def pieces_of(path: Path) -> Iterator[bytes]:
    """The bytes of ``path``, a mebibyte at a time."""
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(CHUNK_BYTES):
            yield piece


def sha256_of(path: Path) -> tuple[str, int]:
    """sha256 (hex) and size in bytes of a file."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
        return digest.hexdigest(), stream.tell()
