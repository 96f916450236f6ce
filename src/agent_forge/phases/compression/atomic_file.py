"""A file that is there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from agent_forge.errors import DiskFull


def write_atomically(path: Path, blob: bytes) -> None:
    """Temporary name in the same folder → fsync → rename → fsync of the folder.

    Args:
        path: where the file shall be; its folder is created.
        blob: its bytes.

    Raises:
        DiskFull: no room. The temporary file is removed, an earlier file of that name is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"no room for {len(blob):,} bytes in {path.parent}; free some space and try again"
            ) from error
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
