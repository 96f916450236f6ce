"""What is wrong with a machine, a home or a run, and what to try. Nothing is changed, and torch is not imported."""

from __future__ import annotations

import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeAlias

from packaging.requirements import Requirement

from agent_forge.agent.tiers import probe_tiers
from agent_forge.errors import ForgeError
from agent_forge.health.catalogue import CATALOGUE, failure
from agent_forge.health.diagnosis import Finding, diagnose
from agent_forge.pipeline import environment as machine
from agent_forge.pipeline.scales import byte_size, figure
from agent_forge.storage.database import sqlite_version
from agent_forge.storage.home import FORMAT, Home
from agent_forge.storage.session_lock import STALE_SECONDS, read_holder
from agent_forge.tracking.curves import read_curves, tracking_counts

Level: TypeAlias = Literal["ok", "note", "warning", "problem"]
_CURVE_POINTS = 2000
_LITTLE_MEMORY = 4 * 2**30
_LITTLE_DISK = 5 * 2**30
_EXTRAS = {
    "evolve": ("cmaes", "evolving merges with CMA-ES"),
    "edge": ("gguf", "`agent-forge export --to gguf`"),
    "data": ("pyarrow", "Parquet files and hub data sets as sources"),
}


def examine(home_path: Path, session: str | None) -> list[dict[str, Any]]:
    """Findings about the machine, the home and, if one is named, a session.

    Args:
        home_path: the home; it need not exist.
        session: name of a session whose gates, warnings and curves are read too.

    Returns:
        ``level`` (ok, note, warning, problem), ``what``, ``found`` and ``advice`` (may be empty).

    Raises:
        SessionNotFound: no session of that name.
        ConfigError: a session is named, and there is no home.
    """
    findings = [*_software(), *_hardware(home_path), _sandbox(), *_home(home_path)]
    if session is not None:
        findings += _session(home_path, session)
    return findings


def _say(level: Level, what: str, found: str, advice: str = "") -> dict[str, Any]:
    return {"level": level, "what": what, "found": found, "advice": advice}


def _software() -> list[dict[str, Any]]:
    level: Level = "ok" if sys.version_info >= (3, 11) else "problem"
    findings = [
        _say(level, "Python", platform.python_version(), "" if level == "ok" else "install Python 3.11 or newer")
    ]
    for name in ("torch", "transformers"):
        version = machine.library_version(name)
        if version is None:
            findings.append(_say("problem", name, "not installed", f"pip install {name}"))
        else:
            findings.append(_say("ok", name, version))
    findings += _requirements()
    version, fixed = sqlite_version()
    if fixed:
        findings.append(_say("ok", "SQLite", version))
    else:
        found = f"{version}, which has the WAL-reset bug of 3.7.0 to 3.51.2"
        findings.append(_say("note", "SQLite", found, "nothing to do: writes and checkpoints go through one lock"))
    for extra, (package, purpose) in _EXTRAS.items():
        if machine.library_version(package) is None:
            advice = f"only needed for {purpose}: pip install 'agent-forge[{extra}]'"
            findings.append(_say("note", f"extra {extra}", f"{package} is not installed", advice))
    return findings


def _requirements() -> list[dict[str, Any]]:
    """Installed libraries outside the range that this version declares."""
    try:
        declared = metadata.requires("agent-forge") or []
    except metadata.PackageNotFoundError:
        return [_say("note", "agent-forge", "runs from source; versions of libraries were not checked")]
    findings = []
    for text in declared:
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        version = machine.library_version(needed.name)
        if version is None or not needed.specifier.contains(version, prereleases=True):
            found = f"{version or 'not installed'}, and {needed.specifier or 'any version'} is needed"
            findings.append(_say("problem", needed.name, found, f"pip install '{needed.name}{needed.specifier}'"))
    return findings


def _hardware(home_path: Path) -> list[dict[str, Any]]:
    features = machine.cpu_features()
    fast = any("bf16" in feature for feature in features)
    cpu = f"{machine.cpu_name()}, {machine.cores()} cores, {', '.join(features) or 'no vector instructions known'}"
    advice = "" if fast else "no bf16 instructions: training in fp32 is the faster choice here"
    findings = [_say("ok" if fast else "note", "processor", cpu, advice)]
    memory, disk, gpus = machine.memory_bytes(), machine.free_disk_bytes(home_path), machine.gpu_names()
    low = memory < _LITTLE_MEMORY
    advice = "the demo preset needs 4 GiB; lower batches, or use the smoke preset" if low else ""
    findings.append(_say("warning" if low else "ok", "memory", byte_size(memory), advice))
    low = disk < _LITTLE_DISK
    advice = "`agent-forge sessions gc` frees what no session needs" if low else ""
    findings.append(_say("warning" if low else "ok", "free disk", byte_size(disk), advice))
    findings.append(_say("ok", "GPU", ", ".join(gpus) or "none; everything runs on the processor"))
    return findings


def _sandbox() -> dict[str, Any]:
    """In which tier programs of an agent would run; every tier is tried for real (0.2 s)."""
    probes = probe_tiers()
    what = "sandbox of tools"
    refused = "; ".join(f"{each.tier}: {each.why}" for each in probes if not each.holds)
    best = next((each for each in probes if each.holds), None)
    if best is None:
        advice = "an agent's programs are not run here; install bubblewrap, or use a kernel of 6.2 or newer"
        return _say("note", what, f"none holds ({refused})", advice)
    found = f"{best.tier} holds, with {', '.join(best.layers)} inside"
    return _say("ok", what, found, f"not used: {refused}" if refused else "")


def _home(path: Path) -> list[dict[str, Any]]:
    if not (path / "VERSION").is_file():
        return [_say("note", "home", f"none at {path} yet", "`agent-forge run` makes one")]
    try:
        home = Home.open(path, create=False)
    except ForgeError as error:
        return [_say("problem", "home", str(error))]
    with home:
        sessions = home.registry.sessions()
        size = sum(file.stat().st_size for file in (path / "blobs").rglob("*") if file.is_file())
        found = f"{path}, format {FORMAT}, writable, {len(sessions)} sessions, {byte_size(size)} in blobs"
        findings = [_say("ok", "home", found)]
        if home.swept:
            found = f"{len(home.swept)} files of processes that died while writing"
            findings.append(_say("note", "left-overs", found, "they were removed; nothing committed was lost"))
        for row in sessions:
            findings += _lock(home, row.name, row.status)
    return findings


def _lock(home: Home, session: str, status: str) -> list[dict[str, Any]]:
    """A session that says it runs, and whether somebody really runs it."""
    holder = read_holder(home.path / "sessions" / session)
    why = holder.why_stale(STALE_SECONDS) if holder else None
    resume = f"`agent-forge resume {session}` takes it over and goes on from the last state"
    if holder is not None and why is None:
        return [_say("ok", f"session {session}", f"is being run by process {holder.mark.pid}")]
    if why is not None:
        return [_say("warning", f"session {session}", f"its lock is stale: {why}", resume)]
    if status == "running":
        return [_say("warning", f"session {session}", "is marked as running, and no process runs it", resume)]
    return []


def _session(path: Path, name: str) -> list[dict[str, Any]]:
    from agent_forge.pipeline.views import curve_file, newest_runs, session_detail

    with Home.open(path, create=False) as home:
        detail = session_detail(home, name)
        findings = [_say("ok", f"session {name}", detail["status"])]
        for run in detail["runs"]:
            for gate in run["gates"]:
                if not gate["passed"]:
                    found = f"{figure(gate['measured'])}, and must be {gate['comparison']} {figure(gate['bound'])}"
                    level: Level = "problem" if gate["severity"] == "block" else "warning"
                    findings.append(_say(level, f"gate {gate['metric']} of {run['phase']}", found, gate["why"]))
        runs = newest_runs(home, name)
        curves, counts = {}, {}
        for run_row in runs:
            place = curve_file(home, run_row)
            curves[run_row.phase] = read_curves(place, points=_CURVE_POINTS)
            counts[run_row.phase] = tracking_counts(place)["not_a_number"]
    found_wrong = diagnose(runs, curves, counts)
    findings += [_from_diagnosis(each) for each in found_wrong]
    if not found_wrong:
        looked = ", ".join(phase for phase in curves if curves[phase]) or "none was logged"
        findings.append(_say("ok", "premortem", f"none of {len(CATALOGUE)} entries was seen; curves read: {looked}"))
    return findings


def _from_diagnosis(finding: Finding) -> dict[str, Any]:
    level: Level = "problem" if finding.severity == "failed" else "note" if finding.severity == "note" else "warning"
    what = f"{finding.phase}: {f'{finding.failure} ' if finding.failure else ''}{finding.title}"
    advice = "; ".join(
        text
        for text in (
            f"done: {finding.done}" if finding.done else "",
            f"try: {finding.advice}" if finding.advice else "",
            f"cause: {failure(finding.failure).cause}" if finding.failure else "",
        )
        if text
    )
    return _say(level, what, "; ".join(finding.evidence), advice)
