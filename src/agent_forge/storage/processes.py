"""Who is writing: a mark of one process that another process can check for life.

A pid alone is reused, so the mark also carries the process's start (ticks since boot) and its place
(boot and pid namespace). A mark from another place cannot be judged: after a reboot or from inside
another container the same pid means nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil


@cache
def boot_id() -> str:
    """A value that changes with every boot and names no host."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return str(int(psutil.boot_time()))


def _place() -> str:
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{boot_id()} {namespace}".encode()).hexdigest()[:12]


def _started(pid: int) -> str | None:
    """Start of the process, or None when there is none. Ticks since boot: a clock jump does not move them."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] in "ZX" else fields[19]
    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.Error:
        return None


@dataclass(frozen=True)
class ProcessMark:
    """One process.

    Attributes:
        pid: its number.
        started: its start, in ticks since boot where the system tells them.
        place: boot and pid namespace, hashed.
    """

    pid: int
    started: str
    place: str

    @classmethod
    def mine(cls) -> ProcessMark:
        """The mark of this process."""
        return cls(os.getpid(), _started(os.getpid()) or "0", _place())

    def alive(self) -> bool | None:
        """True or False where it can be judged, None for a mark from another boot or namespace."""
        if self.place != _place():
            return None
        return _started(self.pid) == self.started

    def text(self) -> str:
        """The mark as part of a file name."""
        return f"{self.pid}-{self.started}-{self.place}"

    @classmethod
    def parse(cls, text: str) -> ProcessMark | None:
        """The mark that begins ``text``, or None."""
        parts = text.split("-")
        if len(parts) < 3 or not parts[0].isdigit():
            return None
        return cls(int(parts[0]), parts[1], parts[2])


def steady_seconds() -> float:
    """Seconds on the clock that all processes of this boot share and that no clock change moves."""
    return time.monotonic()
