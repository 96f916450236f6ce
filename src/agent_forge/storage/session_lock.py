"""One process per session: a lock that names its owner, beats while it is held, and can be taken over.

The lock is a small file under ``sessions/<name>/``. A dead owner (its process mark no longer runs) or
a heart that stood still for too long makes it stale; the next process takes it over and says so.
Beats are read on the monotonic clock of the boot, so setting the clock does not make a lock stale.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from agent_forge.errors import ForgeError, SessionBusy
from agent_forge.storage import durable
from agent_forge.storage.processes import ProcessMark, boot_id, steady_seconds

BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0
"""A live owner whose heart stood still for so long (stopped, or hung in the kernel) loses the lock."""


@dataclass(frozen=True)
class Holder:
    """Who holds a session's lock."""

    mark: ProcessMark
    boot: str
    beat: float

    def why_stale(self, stale_seconds: float) -> str | None:
        """Why the lock counts as abandoned, or None while it is held."""
        if self.mark.alive() is False:
            return f"process {self.mark.pid} is gone"
        if self.boot != boot_id():
            return f"process {self.mark.pid} ran before the last boot"
        silent = steady_seconds() - self.beat
        if silent > stale_seconds:
            return f"process {self.mark.pid} gave no sign of life for {silent:.0f} s"
        return None


class SessionLock:
    """The right to run a session. Use as a context manager, or `acquire` and `release`.

    Args:
        folder: ``sessions/<name>/``.
        beat_seconds: time between beats.
        stale_seconds: silence after which another process may take over.

    Attributes:
        took_over: why the former holder's lock was taken, None if it was free.
        last_error: why the last beat failed, None if it did not.
    """

    def __init__(
        self, folder: Path, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self.folder, self.path = folder, folder / "lock.json"
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self.took_over: str | None = None
        self.last_error: Exception | None = None
        self._guard = FileLock(folder / "lock.guard", timeout=30, poll_interval=0.005, thread_local=False)
        self._mutex = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> SessionLock:
        """Takes the lock.

        Raises:
            SessionBusy: a live process holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with durable.disk_errors(self.path), self._mutex, self._guard:
            holder = read_holder(self.folder)
            why = None if holder is None else holder.why_stale(self.stale_seconds)
            if holder is not None and why is None:
                raise SessionBusy(
                    f"session {self.folder.name!r} is being run by process {holder.mark.pid}; "
                    "wait for it, or end it and resume"
                )
            self.took_over = why
            self._write()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._beat, name="session-heartbeat", daemon=True)
        self._thread.start()
        return self

    def release(self) -> None:
        """Gives the lock back; nothing happens when it was lost to another process."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self._mutex, self._guard:
            if self._is_mine():
                self.path.unlink()

    def held(self) -> bool:
        """Whether this process still holds the lock."""
        with self._mutex, self._guard:
            return self._is_mine()

    def check(self) -> None:
        """To be called before anything is committed.

        Raises:
            SessionBusy: the lock was lost while this process stood still.
        """
        if not self.held():
            raise SessionBusy(
                f"session {self.folder.name!r} was taken over by another process while this one stood still; "
                "this process stops and has committed nothing since"
            )

    def __enter__(self) -> SessionLock:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _is_mine(self) -> bool:
        holder = read_holder(self.folder)
        return holder is not None and holder.mark == ProcessMark.mine()

    def _write(self) -> None:
        mark = ProcessMark.mine()
        content: dict[str, Any] = {
            "pid": mark.pid, "started": mark.started, "place": mark.place,
            "boot": boot_id(), "beat": steady_seconds(),
        }  # fmt: skip
        durable.publish_bytes(self.path, json.dumps(content).encode())

    def _beat(self) -> None:
        while not self._stopped.wait(self.beat_seconds):
            try:
                with self._mutex, self._guard:
                    if not self._is_mine():
                        return
                    self._write()
                self.last_error = None
            except (OSError, Timeout, ForgeError) as error:
                # A full disk must not end the run that could free it: the next beat tries again.
                self.last_error = error


def read_holder(folder: Path) -> Holder | None:
    """Who holds the lock of a session folder, or None. An unreadable lock counts as none."""
    try:
        content = json.loads((folder / "lock.json").read_bytes())
        mark = ProcessMark(int(content["pid"]), str(content["started"]), str(content["place"]))
        return Holder(mark, str(content["boot"]), float(content["beat"]))
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return None


def is_live(folder: Path, stale_seconds: float = STALE_SECONDS) -> bool:
    """Whether some process runs the session of this folder right now."""
    holder = read_holder(folder)
    return holder is not None and holder.why_stale(stale_seconds) is None
