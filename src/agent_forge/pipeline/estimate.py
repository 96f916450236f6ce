"""What a run would do and need, before anything starts: ``agent-forge plan``.

A phase whose fingerprint is known is cached and costs nothing; from the first phase that has to run,
the inputs of later ones are not known yet, so those count as to be run. The rest rests on, in this order:

1. the newest finished run of the same phase in this home, scaled by the ratio of the two configurations'
   predicted costs, so that twice the steps take twice the time;
2. where there is none, the counts in the configuration and the matmul speed of this machine
   (`agent_forge.pipeline.costs`), which is right to about ±50%.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_forge.config import ForgeConfig, parse_config
from agent_forge.contract import Artifact
from agent_forge.errors import ConfigError
from agent_forge.pipeline.costs import Cost, Machine, cost, measure
from agent_forge.pipeline.environment import choose_device, cores
from agent_forge.pipeline.fingerprint import step_fingerprint
from agent_forge.pipeline.ingest import check_sources, source_digests
from agent_forge.pipeline.plan import Plan, build_plan
from agent_forge.storage.home import Home

if TYPE_CHECKING:
    from agent_forge.storage.rows import PhaseRunRow


@dataclass(frozen=True)
class _Before:
    """A finished run of a phase with the configuration that it had."""

    run: PhaseRunRow
    config: ForgeConfig


def estimate(config: ForgeConfig, home_path: Path) -> dict[str, Any]:
    """Plain values for ``agent-forge plan``.

    Args:
        config: of the run.
        home_path: where it would run; need not exist, and is not made.

    Returns:
        ``phases`` (each ``phase``, ``status`` cached or to run, ``minutes``, ``memory_gib``, ``disk_mib``
        and ``rests_on``), ``parameters`` by part, and the sums ``minutes``, ``memory_gib`` (of the largest phase),
        ``disk_mib``, with ``device`` and ``threads``.

    Raises:
        PlanError: the phases do not fit together.
        DataError: a source does not exist.
    """
    plan = build_plan(config)
    check_sources(config.data)
    device, threads = choose_device(config.device), config.threads or cores()
    parameters = count(config)
    machine = measure_for(config, device, threads)
    if (home_path / "VERSION").is_file():
        with Home.open(home_path, create=False) as home:
            cached = _cached(config, plan, home, device, threads)
            before = {step.name: found for step in plan.steps if (found := _before(home, config, step.name))}
    else:
        cached, before = set(), {}
    rows = []
    for step in plan.steps:
        if step.name in cached:
            rows.append(_row(step.name, "cached", Cost(0.0, 0.0, 0.0), "its fingerprint is known"))
            continue
        predicted = cost(step.name, config, parameters["total"], machine)
        rests_on = "counts and matmul speed"
        if step.name in before:
            earlier = before[step.name]
            predicted = _scaled(predicted, step.name, earlier, machine)
            rests_on = f"its run in session {earlier.run.session}"
        rows.append(_row(step.name, "to run", predicted, rests_on))
    return {
        "phases": rows,
        "parameters": parameters,
        "minutes": sum(row["minutes"] or 0.0 for row in rows),
        "memory_gib": max(row["memory_gib"] or 0.0 for row in rows),
        "disk_mib": sum(row["disk_mib"] or 0.0 for row in rows),
        "device": device,
        "threads": threads,
    }


def _row(phase: str, status: str, needed: Cost | None, rests_on: str) -> dict[str, Any]:
    return {
        "phase": phase,
        "status": status,
        "minutes": None if needed is None else needed.seconds / 60,
        "memory_gib": None if needed is None else needed.memory_bytes / 2**30,
        "disk_mib": None if needed is None else needed.disk_bytes / 2**20,
        "rests_on": rests_on,
    }


def count(config: ForgeConfig) -> dict[str, int]:
    """Parameters of the model by part; the vocabulary counts in full."""
    from agent_forge.model import CognateConfig
    from agent_forge.model.parameters import count_parameters

    return count_parameters(CognateConfig(**config.cognate.model.model_dump()))


def measure_for(config: ForgeConfig, device: str, threads: int) -> Machine:
    """The machine at the width of the configured model."""
    part = config.cognate
    tokens = part.micro_batch_tokens or part.batch_tokens
    return measure(part.model.hidden_size, part.model.intermediate_size, tokens, device, threads, part.precision)


def _cached(config: ForgeConfig, plan: Plan, home: Home, device: str, threads: int) -> set[str]:
    """Steps whose outputs are there; the chain ends at the first that are not."""
    given: dict[str, Artifact | tuple[Artifact, ...]] = {}
    known: set[str] = set()
    sources = source_digests(config.data)
    for step in plan.steps:
        inputs = {name: given[name] for name in step.sources}
        key = step_fingerprint(step, config, inputs, device=device, threads=threads, sources=sources)
        row = home.registry.find_completed(key)
        if row is None:
            return known
        known.add(step.name)
        plural = {name for name, kind in step.phase.produces.items() if kind == "checkpoints"}
        given.update({name: tuple(made) if name in plural else made[0] for name, made in row.outputs.items()})
    return known


def _before(home: Home, config: ForgeConfig, phase: str) -> _Before | None:
    """The newest completed run of a phase, one of the same preset if there is any."""
    found: list[_Before] = []
    for session in home.registry.sessions():
        runs = [run for run in home.registry.phase_runs(session.name, phase) if run.status == "completed"]
        if not runs or not runs[-1].measured.get("run/seconds"):
            continue
        try:
            found.append(_Before(runs[-1], parse_config(session.config)))
        except ConfigError:
            continue  # written by a version with other keys: its numbers cannot be compared
    same = [each for each in found if each.config.preset == config.preset]
    return next(iter(same or found), None)


def _scaled(predicted: Cost, phase: str, before: _Before, machine: Machine) -> Cost:
    """An earlier run's own figures, times what the change of configuration is predicted to do."""
    then = cost(phase, before.config, count(before.config)["total"], machine)
    measured = before.run.measured
    seconds = measured["run/seconds"] * predicted.seconds / then.seconds
    peak = measured.get("run/peak_memory_bytes") or then.memory_bytes
    return Cost(seconds, peak * predicted.memory_bytes / then.memory_bytes, predicted.disk_bytes)
