"""Who has a folder open: a shared lock on the folder itself, for as long as a process uses it.

Only one question is answered with it: is nobody else here, so that a home in which nothing was stored may go again?
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nobody is ever known to be alone
    fcntl = None  # type: ignore[assignment]

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}
"""What file systems without such locks answer (some network ones)."""


class Occupancy:
    """One user of a folder, from its making until `leave`.

    Args:
        folder: must exist.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        if fcntl is None:
            return
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _NO_LOCKS:
                raise
            return
        self._descriptor = descriptor

    def holds(self, folder: Path) -> bool:
        """Whether ``folder`` is still the folder that was locked; False when it was removed or made anew meanwhile."""
        if self._descriptor is None:
            return folder.is_dir()
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(folder))
        except FileNotFoundError:
            return False

    def alone(self) -> bool:
        """True if no other process, and nobody else in this one, has the folder open; newcomers then wait for `leave`.

        To be called once, just before leaving. False where the file system has no such locks.
        """
        if fcntl is None or self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def leave(self) -> None:
        """Gives the lock back; a second call does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def occupy(folder: Path) -> Occupancy:
    """Makes ``folder`` where it is missing and occupies it, also when another process is just removing it."""
    from agent_forge.storage.durable import make_folder

    while True:
        make_folder(folder)
        try:
            found = Occupancy(folder)
        except FileNotFoundError:
            continue
        if found.holds(folder):
            return found
        found.leave()
