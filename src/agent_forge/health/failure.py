"""One entry of the failure catalogue."""

from __future__ import annotations

from dataclasses import dataclass

from agent_forge.health.detectors import Signal

EVERYWHERE = ("pipeline",)
"""``phases`` of a failure that belongs to no phase."""


@dataclass(frozen=True)
class Failure:
    """A way in which a run can fail, and what the program does about it.

    Attributes:
        id: as in the specification where it has one.
        title: the failure in a few words.
        cause: why it happens.
        phases: where it can happen.
        measured: what is looked at, in words.
        threshold: when it counts as seen, with its window, in words.
        mitigation: what the program does by itself.
        fallback: what remains when that does not help.
        shown: where a person sees it.
        advice: what to try; printed by ``agent-forge doctor``.
        signals: the same condition for the machine, on curves.
        test: the test that injects it, as ``path::function`` under ``tests/``.
        later: why there is no test yet; empty when there is one.
        correction: where the specification's own words or numbers were wrong.
    """

    id: str
    title: str
    cause: str
    phases: tuple[str, ...]
    measured: str
    threshold: str
    mitigation: str
    fallback: str
    shown: str = "warning of the phase run, report, doctor"
    advice: str = ""
    signals: tuple[Signal, ...] = ()
    test: str | None = None
    later: str = ""
    correction: str = ""

    @property
    def built(self) -> bool:
        """Whether a test injects it."""
        return self.test is not None
