"""The processor at hand: cores that this process may use, and the board that it sits on."""

from __future__ import annotations

import os
from pathlib import Path

BOARD = Path("/proc/device-tree/model")


def usable_cores() -> int:
    """Cores that this process may use; where the system cannot tell (macOS), those of the machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def board(path: Path = BOARD) -> str:
    """What the device tree calls the machine, such as "Raspberry Pi 4 Model B Rev 1.4"; "" where there is no such tree.

    Args:
        path: of the file, which ends with a zero byte.
    """
    try:
        return path.read_text(encoding="utf-8", errors="replace").rstrip("\0\n ")
    except OSError:
        return ""
