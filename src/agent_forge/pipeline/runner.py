"""The runner: walks the plan, reuses what is known, gives each phase a process, and judges its gates.

This is the only place that catches everything that a phase may raise.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from agent_forge import errors
from agent_forge.config import ForgeConfig
from agent_forge.contract import Artifact, Artifacts, many
from agent_forge.errors import (
    ArtifactCorrupt,
    ArtifactMissing,
    DiskFull,
    ForgeError,
    Interrupted,
    OutOfMemory,
    PhaseFailed,
    PhaseTimeout,
)
from agent_forge.pipeline.environment import choose_device, cores
from agent_forge.pipeline.fingerprint import step_fingerprint
from agent_forge.pipeline.gates import GateResult, evaluate
from agent_forge.pipeline.plan import Plan, Step
from agent_forge.pipeline.session import Session
from agent_forge.pipeline.worker import MEMORY_EXIT, Child, WorkOrder, artifacts_from_json, artifacts_to_json

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Event:
    """Something to show: ``kind`` is started, progress, log, warning, resumed, reused, finished, gate, degraded."""

    kind: str
    phase: str
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class PhaseOutcome:
    """How one phase of a run ended.

    Attributes:
        status: ``done``, ``reused`` or ``degraded``.
    """

    phase: str
    status: str
    seconds: float
    peak_memory_bytes: int
    measured: Mapping[str, float]
    gates: tuple[GateResult, ...]
    note: str = ""


@dataclass
class Outcome:
    """How a run ended."""

    session: str
    phases: list[PhaseOutcome] = field(default_factory=list)

    @property
    def gates(self) -> list[GateResult]:
        """All gates in order."""
        return [gate for phase in self.phases for gate in phase.gates]

    @property
    def passed(self) -> bool:
        """True if every blocking gate passed and no phase was skipped."""
        return not any(gate.blocks for gate in self.gates) and all(item.status != "degraded" for item in self.phases)


@dataclass(frozen=True)
class _Result:
    outputs: dict[str, Artifact | tuple[Artifact, ...]]
    measured: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return self.measured.get("run/seconds", 0.0)

    @property
    def peak_memory_bytes(self) -> int:
        return int(self.measured.get("run/peak_memory_bytes", 0))


class Runner:
    """Runs one session.

    Args:
        session: an open session; its lock is held by the caller.
        plan: of the session's configuration.
        emit: receives every event; must be quick.
        sources: what `source_digests` gave for the session's configuration, so that no file is read twice.
    """

    def __init__(self, session: Session, plan: Plan, emit: Callable[[Event], None], *, sources: Sequence[str]) -> None:
        self.session, self.plan, self.emit, self._sources = session, plan, emit, tuple(sources)
        self.config: ForgeConfig = session.config
        self.device = choose_device(self.config.device)
        self._child: Child | None = None
        self._stops = 0

    def request_stop(self) -> None:
        """First call: the phase saves its state and stops. Second call: it is ended."""
        self._stops += 1
        if self._child is not None:
            self._child.ask_to_stop()

    def run(self) -> Outcome:
        """Walks the plan.

        Raises:
            GateFailed: a blocking gate failed and the phase has no fallback.
            PhaseFailed: a phase raised and has no fallback.
            Interrupted: the user stopped the run.
        """
        self._warn_of_few_cores()
        outcome = Outcome(self.session.name)
        given: dict[str, Artifact | tuple[Artifact, ...]] = {}
        for step in self.plan.steps:
            inputs = {name: given[name] for name in step.sources if name in given}
            try:
                result, done = self._step(step, inputs)
            except (Interrupted, DiskFull):
                raise
            except ForgeError as error:
                if not self._may_skip(step):
                    raise
                outcome.phases.append(self._degrade(step, str(error), ()))
                continue
            outcome.phases.append(done)
            blocking = [gate for gate in done.gates if gate.blocks]
            if blocking and self._may_skip(step):
                outcome.phases[-1] = self._degrade(step, str(blocking[0].error()), done.gates)
                continue
            given.update(result.outputs)
            self.session.home.link_outputs(
                self.session.name,
                step.position,
                step.name,
                {name: many(result.outputs, name) for name in result.outputs},
            )
            if blocking:
                self.session.finish("failed", outcome_json(outcome))
                raise blocking[0].error()
        self.session.finish("completed" if outcome.passed else "degraded", outcome_json(outcome))
        return outcome

    def _warn_of_few_cores(self) -> None:
        wanted, found = self.session.threads, cores()
        if self.config.threads == 0 and wanted > found:
            text = f"the session began with {wanted} threads and goes on with them, for the same bits, on {found} cores"
            self._emit("warning", self.plan.steps[0].name, {"failure": "threads", "message": text}, keep=True)

    def _may_skip(self, step: Step) -> bool:
        return self.config.fallbacks.get(step.name) == "skip" and self.plan.can_skip(step.name)

    def _degrade(self, step: Step, reason: str, gates: tuple[GateResult, ...]) -> PhaseOutcome:
        self._emit("degraded", step.name, {"reason": reason}, keep=True)
        return PhaseOutcome(step.name, "degraded", 0.0, 0, {}, gates, reason)

    def _emit(self, kind: str, phase: str, payload: Mapping[str, Any], *, keep: bool = False) -> None:
        if keep:
            self.session.registry.add_event(self.session.name, f"{phase}/{kind}", dict(payload))
        self.emit(Event(kind, phase, payload))

    def _step(self, step: Step, inputs: Artifacts) -> tuple[_Result, PhaseOutcome]:
        if self._stops:  # asked for between two phases, or in one that never looks
            raise Interrupted(self._resume_sentence())
        key = step_fingerprint(
            step, self.config, inputs, device=self.device, threads=self.session.threads, sources=self._sources
        )
        result = self._reuse(step, inputs, key)
        status = "reused" if result else "done"
        if result is None:
            result = self._execute(step, inputs, key)
        gates = tuple(evaluate(step.name, self.config.gates.get(step.name, ()), result.measured))
        for gate in gates:
            self._emit("gate", step.name, gate.to_json())
        done = PhaseOutcome(step.name, status, result.seconds, result.peak_memory_bytes, result.measured, gates)
        payload = {"status": status, "seconds": result.seconds, "peak_memory_bytes": result.peak_memory_bytes}
        self._emit("finished", step.name, payload, keep=True)
        return result, done

    def _reuse(self, step: Step, inputs: Artifacts, key: str) -> _Result | None:
        """The outputs of an earlier run with the same fingerprint, if all their files are intact."""
        registry = self.session.registry
        row = registry.find_completed(key)
        if row is None:
            return None
        try:
            for artifacts in row.outputs.values():
                for artifact in artifacts:
                    self.session.home.blobs.check(artifact)
        except (ArtifactMissing, ArtifactCorrupt) as error:
            self._emit("warning", step.name, {"failure": "artifact", "message": f"computed again: {error}"}, keep=True)
            return None
        if row.session != self.session.name:
            run_id = registry.begin_phase_run(self.session.name, step.name, key, inputs=_plural(inputs))
            registry.commit_phase_run(
                run_id, row.outputs, row.measured, registry.attachments(row.id), row.warnings, status="reused"
            )
        self._emit("reused", step.name, {"fingerprint": key, "from": row.session})
        return _Result(_by_kind(step, row.outputs), row.measured)

    def _execute(self, step: Step, inputs: Artifacts, key: str) -> _Result:
        limit = self.config.limit(step.name)
        order = WorkOrder(
            home=self.session.home.path,
            session=self.session.name,
            phase=step.name,
            config=self.config.part(step.name).model_dump(mode="json"),
            inputs=artifacts_to_json(inputs),
            fingerprint=key,
            seed=self.config.seed,
            device=self.device,
            threads=self.session.threads,
            seconds=limit.seconds,
            memory_bytes=int(limit.memory_gib * 2**30),
            keep_states=self.config.retention.checkpoints,
            handoffs=tuple(self.config.handoffs.get(step.name, ())),
        )
        run_id = self.session.registry.begin_phase_run(self.session.name, step.name, key, inputs=_plural(inputs))
        self._emit("started", step.name, {"fingerprint": key})
        start = time.monotonic()
        try:
            message, peak = self._watch(step.name, order)
        except BaseException as error:
            trace = getattr(error, "trace", "") or repr(error)
            self.session.registry.fail_phase_run(run_id, _failed_status(error), trace)
            raise
        measured = {
            **message["measured"],
            "run/seconds": time.monotonic() - start,
            "run/peak_memory_bytes": float(peak),
        }
        outputs = artifacts_from_json(message["outputs"])
        self.session.check()
        self.session.registry.commit_phase_run(
            run_id, _plural(outputs), measured, message["attachments"], message["warnings"]
        )
        self.session.home.clear_scratch(self.session.name, step.name)
        return _Result(outputs, measured)

    def _watch(self, phase: str, order: WorkOrder) -> tuple[dict[str, Any], int]:
        """Follows the child until it gives its result; ends it at its limits."""
        child = self._child = Child(order)
        if self._stops:  # asked for while the process was being started
            child.ask_to_stop()
        try:
            return self._follow(phase, order, child)
        finally:
            child.end()
            self._child = None

    def _follow(self, phase: str, order: WorkOrder, child: Child) -> tuple[dict[str, Any], int]:
        deadline = time.monotonic() + order.seconds
        peak, warned = 0, False
        while True:
            if child.connection.poll(_POLL_SECONDS):
                try:
                    kind, payload = child.connection.recv()
                except (EOFError, ConnectionError):  # reset, when it died before it read what was sent to it
                    raise self._silent_death(phase, child) from None
                if kind == "result":
                    return payload, max(peak, payload.pop("peak_memory_bytes", 0))
                if kind == "error":
                    raise self._translate(phase, payload)
                self._emit(kind, phase, payload, keep=kind in ("warning", "resumed"))
            elif not child.process.is_alive():
                raise self._silent_death(phase, child)
            if self._stops > 1:
                raise Interrupted(self._resume_sentence())
            if time.monotonic() > deadline:
                raise PhaseTimeout(phase, None, f"it ran longer than its limit of {order.seconds:g} seconds")
            now = _memory(child)
            peak = max(peak, now)
            if now > order.memory_bytes:
                raise OutOfMemory(phase, None, _too_much(now, order.memory_bytes))
            if now > 0.8 * order.memory_bytes and not warned:
                warned = True
                text = f"memory is above 80% of the limit ({now / 2**30:.1f} GiB)"
                self._emit("warning", phase, {"failure": "CF1", "message": text, "evidence": {}}, keep=True)

    def _silent_death(self, phase: str, child: Child) -> ForgeError:
        child.process.join(5)
        code = child.process.exitcode
        if self._stops:
            return Interrupted(self._resume_sentence())
        if code in (-9, MEMORY_EXIT):
            return OutOfMemory(phase, None, "its process was killed, as the system does when memory runs out")
        return PhaseFailed(phase, None, f"its process ended with status {code} and gave no result")

    def _translate(self, phase: str, payload: Mapping[str, Any]) -> ForgeError:
        """The child's exception as one of ours, with the child's traceback kept for the registry."""
        kind, message = payload["kind"], payload["message"]
        error: ForgeError
        if kind == "Interrupted":
            error = Interrupted(f"{message}: `agent-forge resume {self.session.name}`")
        elif kind == "OutOfMemory":
            error = OutOfMemory(phase, None, message)
        elif kind == "DiskFull":
            error = DiskFull(message)
        elif payload["expected"] and payload["exit_code"] in (2, 5) and hasattr(errors, kind):
            error = getattr(errors, kind)(message)
        else:
            error = PhaseFailed(phase, None, message if payload["expected"] else f"{kind}: {message}")
        error.trace = payload["traceback"]  # type: ignore[attr-defined]
        return error

    def _resume_sentence(self) -> str:
        return f"stopped; `agent-forge resume {self.session.name}` goes on from the last checkpoint"


def _plural(artifacts: Artifacts) -> dict[str, tuple[Artifact, ...]]:
    return {name: many(artifacts, name) for name in artifacts}


def _by_kind(step: Step, outputs: Mapping[str, Sequence[Artifact]]) -> dict[str, Artifact | tuple[Artifact, ...]]:
    """The registry keeps every handoff as a sequence; the phase declares which are plural."""
    plural = {name for name, kind in step.phase.produces.items() if kind == "checkpoints"}
    return {name: tuple(found) if name in plural else found[0] for name, found in outputs.items()}


def _failed_status(error: BaseException) -> str:
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return "interrupted"
    if isinstance(error, PhaseTimeout):
        return "timeout"
    return "out_of_memory" if isinstance(error, OutOfMemory) else "failed"


def _memory(child: Child) -> int:
    try:
        return int(psutil.Process(child.process.pid).memory_info().rss)
    except psutil.Error:
        return 0  # it has just ended


def _too_much(used: int, limit: int) -> str:
    return (
        f"it used {used / 2**30:.1f} GiB and its limit is {limit / 2**30:.1f} GiB; "
        "lower its batch or population, or raise limits.<phase>.memory_gib"
    )


def outcome_json(outcome: Outcome) -> dict[str, Any]:
    """Plain values for the registry and for ``--json``."""
    return {
        "session": outcome.session,
        "passed": outcome.passed,
        "phases": [
            {
                "phase": item.phase,
                "status": item.status,
                "seconds": item.seconds,
                "peak_memory_bytes": item.peak_memory_bytes,
                "measured": dict(item.measured),
                "gates": [gate.to_json() for gate in item.gates],
                "note": item.note,
            }
            for item in outcome.phases
        ],
    }
