"""What looks wrong in a run, with evidence: read by ``agent-forge doctor SESSION``.

Reads curves and phase runs as they are stored and compares them with the catalogue. It says what was
seen, what the program did about it, and what to try; it never guesses beyond a number that it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from agent_forge.health.catalogue import CATALOGUE, failure, of_phase
from agent_forge.health.detectors import Evidence, Signal, evaluate

Severity: TypeAlias = Literal["note", "warn", "act", "failed"]
_ORDER: tuple[Severity, ...] = ("failed", "act", "warn", "note")
_STATUS_FAILURE = {"out_of_memory": "ENV1", "timeout": "CF4"}


class CurveLike(Protocol):
    """A curve as `agent_forge.tracking.curves` reads it."""

    @property
    def steps(self) -> Any:
        """[N]."""
        ...

    @property
    def last(self) -> Any:
        """[N]."""
        ...


class PhaseRunLike(Protocol):
    """A phase run as the registry gives it."""

    @property
    def phase(self) -> str:
        """Its name."""
        ...

    @property
    def attempt(self) -> int:
        """Counted from 1."""
        ...

    @property
    def status(self) -> str:
        """How it ended."""
        ...

    @property
    def warnings(self) -> Sequence[Mapping[str, Any]]:
        """What it warned of."""
        ...

    @property
    def traceback(self) -> str | None:
        """Why it failed."""
        ...


@dataclass(frozen=True)
class Finding:
    """Something that looks wrong.

    Attributes:
        failure: id in the catalogue, None for an error that it does not know.
        title: in a few words.
        phase: where.
        severity: ``failed`` ended the phase; ``act`` and ``warn`` are the level of the signal.
        evidence: sentences with numbers.
        done: what the program did about it.
        advice: what to try.
    """

    failure: str | None
    title: str
    phase: str
    severity: Severity
    evidence: tuple[str, ...]
    done: str
    advice: str


def diagnose(
    phase_runs: Sequence[PhaseRunLike],
    curves: Mapping[str, Mapping[str, CurveLike]],
    not_a_number: Mapping[str, Mapping[str, int]] | None = None,
) -> list[Finding]:
    """What looks wrong, the worst first.

    Args:
        phase_runs: of a session, oldest first; only the newest attempt of each phase is judged.
        curves: by phase and metric.
        not_a_number: how often a metric was NaN or infinite, by phase and metric.
    """
    newest = {run.phase: run for run in phase_runs}
    findings: list[Finding] = []
    for phase, run in newest.items():
        found = _from_warnings(run)
        for identity, evidence in _from_curves(phase, curves.get(phase, {})).items():
            found.setdefault(identity, []).extend(evidence)
        findings += [_finding(identity, phase, evidence) for identity, evidence in found.items()]
        findings += _from_status(run)
        findings += _from_counts(phase, (not_a_number or {}).get(phase, {}))
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


def lines(findings: Sequence[Finding]) -> list[str]:
    """Findings as text, one paragraph each."""
    if not findings:
        return ["Nothing looks wrong."]
    out = []
    for finding in findings:
        name = f"{finding.failure}: {finding.title}" if finding.failure else finding.title
        out.append(f"[{finding.severity}] {finding.phase} · {name}")
        out += [f"    seen: {sentence}" for sentence in finding.evidence]
        out += [f"    done: {finding.done}"] if finding.done else []
        out += [f"    try:  {finding.advice}"] if finding.advice else []
    return out


_Seen: TypeAlias = "tuple[Severity, str]"


def _from_warnings(run: PhaseRunLike) -> dict[str, list[_Seen]]:
    found: dict[str, list[_Seen]] = {}
    for warning in run.warnings:
        numbers = ", ".join(f"{key} = {value:.4g}" for key, value in dict(warning.get("evidence", {})).items())
        sentence = f"{warning['message']}" + (f" ({numbers})" if numbers else "")
        found.setdefault(str(warning["failure"]), []).append(("warn", sentence))
    return found


def _from_curves(phase: str, curves: Mapping[str, CurveLike]) -> dict[str, list[_Seen]]:
    found: dict[str, list[_Seen]] = {}
    for entry in of_phase(phase):
        for signal in entry.signals:
            evidence = _look(signal, curves)
            if evidence is not None:
                found.setdefault(entry.id, []).append((signal.level, evidence.sentence()))
    return found


def _look(signal: Signal, curves: Mapping[str, CurveLike]) -> Evidence | None:
    if signal.metric not in curves or (signal.against is not None and signal.against not in curves):
        return None
    curve = curves[signal.metric]
    steps, values, against = np.asarray(curve.steps), np.asarray(curve.last), None
    if signal.against is not None:
        other = curves[signal.against]
        steps, mine, theirs = np.intersect1d(steps, other.steps, return_indices=True)
        values, against = values[mine], np.asarray(other.last)[theirs]
    return evaluate(signal, steps, values, against)


def _finding(identity: str, phase: str, seen: list[_Seen]) -> Finding:
    severity: Severity = "act" if any(level == "act" for level, _ in seen) else "warn"
    sentences = tuple(sentence for _, sentence in seen)
    if identity not in {entry.id for entry in CATALOGUE}:
        return Finding(None, f"warning {identity}", phase, severity, sentences, "", "")
    entry = failure(identity)
    return Finding(identity, entry.title, phase, severity, sentences, entry.mitigation, entry.advice)


def _from_status(run: PhaseRunLike) -> list[Finding]:
    if run.status in ("completed", "reused", "running"):
        return []
    where = f"attempt {run.attempt} ended as {run.status}"
    if run.status in ("interrupted", "degraded", "gate_failed"):
        advice = {
            "interrupted": "`agent-forge resume` goes on from the last state",
            "degraded": "the declared fallback was used; the table of gates says why",
            "gate_failed": "the table of gates names the measured value and its bound",
        }[run.status]
        severity: Severity = "note" if run.status == "interrupted" else "warn"
        return [
            Finding(None, f"the phase was {run.status.replace('_', ' ')}", run.phase, severity, (where,), "", advice)
        ]
    last = [line for line in (run.traceback or "").strip().splitlines() if line.strip()][-1:]
    evidence = (where, *last)
    if run.status in _STATUS_FAILURE:
        entry = failure(_STATUS_FAILURE[run.status])
        return [Finding(entry.id, entry.title, run.phase, "failed", evidence, entry.mitigation, entry.advice)]
    return [
        Finding(None, "the phase failed", run.phase, "failed", evidence, "its state was kept", "resume or report it")
    ]


def _from_counts(phase: str, counts: Mapping[str, int]) -> list[Finding]:
    sentences = tuple(f"{name} was not a number {count} times" for name, count in sorted(counts.items()) if count)
    if not sentences:
        return []
    return [Finding(None, "curves with NaN or infinity", phase, "warn", sentences, "counted, not hidden", "")]
