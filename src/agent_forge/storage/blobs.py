"""Bytes by their digest: each file once, never changed, checked whenever it is read.

A blob lives at ``blobs/ab/<sha256>``. An artifact is seen through ``views/<digest>/``, a read-only
folder of hard links, so that any library can open it as a plain folder.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

from agent_forge.contract import Artifact
from agent_forge.errors import ArtifactCorrupt, ArtifactMissing, DataError
from agent_forge.storage import durable

How: TypeAlias = Literal["copy", "link", "move"]
"""How a file comes in. ``link`` and ``move`` fall back to a copy across file systems; with ``link`` the source
must never be written again, because it is the blob."""


class Blobs:
    """The files of one home.

    Args:
        folder: where blobs live.
        views: where the read-only folders of artifacts are put together.
        reserve_bytes: free space that a save must leave.
    """

    def __init__(self, folder: Path, views: Path, *, reserve_bytes: int = durable.DEFAULT_RESERVE_BYTES) -> None:
        self.folder, self.views, self.reserve_bytes = folder, views, reserve_bytes
        self._checked: dict[str, tuple[int, int, int]] = {}

    def location(self, sha256: str) -> Path:
        """Where a blob lives if it is there; nothing is checked."""
        return self.folder / sha256[:2] / sha256

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a blob of that name and size is there. Says nothing about its bytes."""
        try:
            return self.location(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def put_file(self, path: Path, how: How = "copy") -> tuple[str, int]:
        """Stores a file durably; equal bytes are stored once.

        Returns:
            sha256 and size in bytes. When this returns, the bytes survive a power cut.

        Raises:
            DiskFull: no room; nothing is left behind.
            DataError: the file changed while it was read.
        """
        sha256, size = durable.sha256_of(path)
        target = self.location(sha256)
        with durable.disk_errors(target):
            durable.make_folder(target.parent)
            if self._intact(sha256):
                # The process that put it here may not have synced the folder yet; we must not answer before that.
                os.utime(target)
                durable.fsync_folder(target.parent)
            elif how == "copy" or not self._adopt(path, target, how):
                durable.require_space(self.folder, size, self.reserve_bytes)
                self._copy(path, target, sha256)
            if how == "move":
                path.unlink(missing_ok=True)
        return sha256, size

    def put_folder(self, kind: str, folder: Path, facts: Mapping[str, Any], how: How = "copy") -> Artifact:
        """Stores every file of ``folder`` and gives the artifact; with ``how="move"`` the folder is gone afterwards.

        Raises:
            DataError: the folder holds no file.
            DiskFull: no room for all of it; checked before the first byte.
        """
        files = {path.relative_to(folder).as_posix(): path for path in _files_below(folder)}
        if not files:
            raise DataError(f"{folder} holds no files, so it cannot be stored as a {kind}")
        if how == "copy":
            durable.require_space(self.folder, sum(path.stat().st_size for path in files.values()), self.reserve_bytes)
        # A symbolic link (a hub snapshot is made of them) is copied: moving it would move only the name.
        stored = {name: self.put_file(path, "copy" if path.is_symlink() else how) for name, path in files.items()}
        if how == "move":
            shutil.rmtree(folder)
        return Artifact(kind=kind, files=dict(sorted(stored.items())), facts=dict(facts))

    def path(self, sha256: str) -> Path:
        """Where a blob lives, after its bytes were checked.

        Raises:
            ArtifactMissing: it is not there.
            ArtifactCorrupt: its bytes have another digest.
        """
        location = self.location(sha256)
        try:
            status = location.stat()
            key = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._checked.get(sha256) == key:
                return location
            found, _ = durable.sha256_of(location)
        except FileNotFoundError as error:
            raise ArtifactMissing(f"{location} is registered but not on disk; run `agent-forge verify`") from error
        if found != sha256:
            raise ArtifactCorrupt(
                f"{location} was altered: its bytes have sha256 {found}, registered is {sha256}; "
                "run `agent-forge verify`, then run the phase that made it again"
            )
        self._checked[sha256] = key
        return location

    def open(self, sha256: str) -> BinaryIO:
        """The bytes of a checked blob. Raises as `path`."""
        return self.path(sha256).open("rb")

    def check(self, artifact: Artifact) -> None:
        """Checks every file of an artifact. Raises as `path`."""
        for sha256, _ in artifact.files.values():
            self.path(sha256)

    def view(self, artifact: Artifact) -> Path:
        """A read-only folder with the files of ``artifact`` under their own names, digests checked.

        Raises:
            ArtifactMissing, ArtifactCorrupt: as `path`.
        """
        self.check(artifact)
        folder = self.views / artifact.digest
        if not self._shows(folder, artifact):
            with durable.disk_errors(folder):
                self._build_view(folder, artifact)
        return folder

    def remove(self, sha256: str) -> int:
        """Deletes a blob; only for `retention`, which knows what is still reachable. Returns the bytes freed."""
        location = self.location(sha256)
        size = location.stat().st_size
        location.unlink()
        self._checked.pop(sha256, None)
        return size

    def names(self) -> Iterator[tuple[str, Path]]:
        """Every blob: name and path, in no order, temporary files left out."""
        for folder in sorted(path for path in self.folder.iterdir() if path.is_dir()):
            for path in folder.iterdir():
                if not path.name.startswith(durable.TEMPORARY_PREFIX):
                    yield path.name, path

    def _intact(self, sha256: str) -> bool:
        """Whether a good copy is already here; a damaged one is not, and will be replaced."""
        try:
            self.path(sha256)
        except (ArtifactMissing, ArtifactCorrupt):
            return False
        return True

    def _adopt(self, path: Path, target: Path, how: How) -> bool:
        """Takes the file itself instead of a copy; False where the file system does not allow it."""
        temporary = durable.temporary_path(target.parent)
        durable.fsync_file(path)
        try:
            if how == "link":
                os.link(path, temporary)
            else:
                os.rename(path, temporary)
        except OSError:
            return False
        durable.publish(temporary, target, read_only=True)
        return True

    def _copy(self, path: Path, target: Path, sha256: str) -> None:
        temporary, copied, _ = durable.write_temporary(target.parent, durable.pieces_of(path))
        if copied != sha256:
            temporary.unlink()
            raise DataError(f"{path} changed while it was being stored; stop its writer and try again")
        durable.publish(temporary, target, read_only=True)

    def _shows(self, folder: Path, artifact: Artifact) -> bool:
        """Whether the view is complete and still made of these very blobs."""
        try:
            names = {path.relative_to(folder).as_posix() for path in _files_below(folder)}
            return names == set(artifact.files) and all(
                os.path.samefile(folder / name, self.location(sha256)) for name, (sha256, _) in artifact.files.items()
            )
        except FileNotFoundError:
            return False

    def _build_view(self, folder: Path, artifact: Artifact) -> None:
        temporary = durable.temporary_path(self.views)
        for name, (sha256, _) in artifact.files.items():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(self.location(sha256), target)
        for path in [*temporary.rglob("*"), temporary]:
            if path.is_dir():
                path.chmod(0o555)
        try:
            temporary.rename(folder)
        except OSError:
            # Another process built it first, or an old one shows other blobs.
            if not self._shows(folder, artifact):
                remove_folder(folder)
                temporary.rename(folder)
            else:
                remove_folder(temporary)


def remove_folder(folder: Path) -> None:
    """Deletes a folder of read-only files and folders; no error when it is not there."""
    if folder.is_dir():
        for path in [folder, *folder.rglob("*")]:
            if path.is_dir() and not path.is_symlink():
                path.chmod(stat.S_IRWXU)
        shutil.rmtree(folder)


def _files_below(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(durable.TEMPORARY_PREFIX)
    )


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        target.symlink_to(source.resolve())
