"""A disk that fails at a chosen call, and one that records calls so that every crash can be replayed.

Both stand in for the module ``os`` inside the storage room and pass everything on to the real one.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FALLIBLE = ("open", "write", "fsync", "replace", "link", "rename", "makedirs", "chmod", "utime")


class FailingDisk:
    """Raises at the ``fail_at``-th call that changes the disk, and at every later one when ``stays`` is true."""

    def __init__(self, fail_at: int, error: int = errno.ENOSPC, *, stays: bool = True) -> None:
        self.fail_at, self.error, self.stays, self.calls = fail_at, error, stays, 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in FALLIBLE:
            return real

        def call(*arguments: Any, **keywords: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at or (self.stays and self.calls > self.fail_at):
                raise OSError(self.error, os.strerror(self.error))
            return real(*arguments, **keywords)

        return call


class RecordingDisk:
    """Notes what changes the disk, in the order of the calls.

    The model of a crash: the bytes of a file are sure after its fsync, before it any prefix may be there. A
    name (created, renamed, linked) is sure after the fsync of its folder, before it it may or may not be there.
    """

    def __init__(self) -> None:
        self.trace: list[tuple[str, Any, Any]] = []
        self._paths: dict[int, Path] = {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in (*FALLIBLE, "close"):
            return real

        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "write":
                written = real(*arguments, **keywords)
                self.trace.append(("write", self._paths[arguments[0]], bytes(arguments[1][:written])))
                return written
            answer = real(*arguments, **keywords)
            if name == "open":
                self._paths[answer] = Path(arguments[0])
                if arguments[1] & os.O_CREAT:
                    self.trace.append(("create", Path(arguments[0]), None))
            elif name == "fsync":
                self.trace.append(("fsync", self._paths[arguments[0]], None))
            elif name in ("replace", "rename"):
                self.trace.append(("rename", Path(arguments[0]), Path(arguments[1])))
            elif name == "makedirs":
                self.trace.append(("folder", Path(arguments[0]), None))
            return answer

        return call


def crash_states(
    trace: list[tuple[str, Any, Any]], before: dict[Path, bytes]
) -> Iterator[tuple[int, dict[Path, bytes]]]:
    """Every state of the disk that a power cut after each call may leave: the call's number, and bytes by path.

    Args:
        trace: of a `RecordingDisk`.
        before: durable files from before the trace (a file that was moved in is among them).
    """
    for end in range(len(trace) + 1):
        written, synced, pending = _replay(trace[:end], before)
        names = [(number, change) for number, change in enumerate(pending) if not change[3]]
        for lost in itertools.product([False, True], repeat=len(names)):
            gone = {number for (number, _), is_lost in zip(names, lost, strict=True) if is_lost}
            entries = _entries(pending, gone, before)
            for cut in (0.0, 0.5, 1.0):
                files = {}
                for path, inode in entries.items():
                    data = written[inode]
                    files[path] = data if inode in synced else data[: int(len(data) * cut)]
                yield end, files


def _replay(
    trace: list[tuple[str, Any, Any]], before: dict[Path, bytes]
) -> tuple[dict[int, bytes], set[int], list[list[Any]]]:
    """Bytes by inode, inodes that are synced, and changes of names as [kind, a, b, durable]."""
    inodes = {path: number for number, path in enumerate(before)}
    written = dict(enumerate(before.values()))
    synced, changes = set(written), []
    for kind, path, argument in trace:
        if kind == "create":
            inodes[path] = len(written)
            written[inodes[path]] = b""
            changes.append(["create", path, inodes[path], False])
        elif kind == "write":
            written[inodes[path]] += argument
            synced.discard(inodes[path])
        elif kind == "folder":
            changes.append(["folder", path, None, False])
        elif kind == "rename":
            inodes[argument] = inodes.pop(path)
            changes.append(["rename", path, (argument, inodes[argument]), False])
        elif path in inodes:
            synced.add(inodes[path])
        else:  # the fsync of a folder
            for change in changes:
                target = change[2][0] if change[0] == "rename" else change[1]
                if target.parent == path:
                    change[3] = True
    return written, synced, changes


def _entries(changes: list[list[Any]], gone: set[int], before: dict[Path, bytes]) -> dict[Path, int]:
    entries = {path: number for number, path in enumerate(before)}
    lost_folders = {change[1] for number, change in enumerate(changes) if change[0] == "folder" and number in gone}
    for number, (kind, path, argument, _) in enumerate(changes):
        if number in gone:
            continue
        if kind == "create":
            entries[path] = argument
        elif kind == "rename":
            entries.pop(path, None)
            entries[argument[0]] = argument[1]
    return {path: inode for path, inode in entries.items() if not lost_folders & set(path.parents)}
