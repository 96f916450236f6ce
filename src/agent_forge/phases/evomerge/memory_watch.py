"""Watches resident memory during evolution, and gives way step by step (failure CF1 of the premortem).

At 80% of the limit: the parents' tensors go from memory to their files; if that is not enough, the population
is halved. Each step is told to the caller, who shows it. Candidates never pile up (one model is resident,
genotypes are data), so memory does not grow with generations or population in the first place.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass
class MemoryWatch:
    """Looks once per generation.

    Attributes:
        limit_bytes: what this process may use; None asks the machine (cgroup, else installed memory).
        fraction: give way from here on.
        steps: what to do, mildest first: (name, action that returns False when there is nothing left to do).
        taken: names of the steps taken so far.
    """

    limit_bytes: int | None
    fraction: float
    steps: list[tuple[str, Callable[[], bool]]]

    def __post_init__(self) -> None:
        self.taken: list[str] = []

    def look(self) -> tuple[str, float] | None:
        """Takes the next step if memory is short; gives its name and the fraction in use that was seen, or None."""
        used = self.used_fraction()
        if used < self.fraction:
            return None
        for name, action in self.steps:
            if action():
                self.taken.append(name)
                give_back()
                return name, used
        return None

    def used_fraction(self) -> float:
        """Resident bytes of this process over its limit; without a limit, the machine's memory in use."""
        limit = self.limit_bytes if self.limit_bytes is not None else cgroup_limit()
        if limit is None:
            return psutil.virtual_memory().percent / 100
        return resident_bytes() / limit


def resident_bytes() -> int:
    """Resident set size of this process."""
    return int(psutil.Process().memory_info().rss)


def cgroup_limit() -> int | None:
    """The limit that a container sets, if there is one below the installed memory."""
    for file in _CGROUP:
        if file.exists():
            text = file.read_text().strip()
            if text.isdigit() and int(text) < psutil.virtual_memory().total:
                return int(text)
    return None


def give_back() -> None:
    """Frees what Python holds and, with glibc, returns it to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
