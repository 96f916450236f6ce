"""The one interface for curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Tracker(Protocol):
    """Takes one row of metrics per step. Never blocks, and never raises for a disk or a network."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One row. A later row of the same step replaces the earlier one where curves are read."""
        ...

    def close(self) -> None:
        """Writes what is left; waits a few seconds at most."""
        ...
