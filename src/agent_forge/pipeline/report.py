"""One HTML file about one session: nothing in it is loaded from elsewhere, nothing in it is invented.

Every section is made from what the registry and the curves hold; what was not recorded is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from agent_forge import __version__
from agent_forge.phases import ORDER
from agent_forge.pipeline import report_charts, report_tables
from agent_forge.pipeline.cascade import stored_cascade
from agent_forge.pipeline.scales import byte_size, duration, figure
from agent_forge.pipeline.views import FINISHED, curve_file, lineage_rows, newest_runs, session_detail
from agent_forge.storage.durable import publish_bytes
from agent_forge.tracking.curves import read_curves

if TYPE_CHECKING:
    from agent_forge.storage.home import Home

_ABOUT = {
    "data": "text to a corpus",
    "cognate": "pretrains a trunk and its specialists",
    "evomerge": "evolves merges of them",
    "quietstar": "learns to think first",
    "bitnet": "1.58-bit weights",
    "forge": "curriculum at the edge of chaos",
    "baking": "bakes in tools and a persona",
    "edge": "prunes, adds experts and a design, exports a bundle",
    "compression": "one tiny file",
}
_CURVE_POINTS = 200
_HEADLINE = {
    "compression/bits_per_byte": "bits per byte of the result",
    "compression/retention_fraction": "kept by compression",
    "compression/retention_of_trunk": "kept of the trunk",
}
_NEWEST_FIRST = ("agent", "model", "trunk")


def write_report(home: Home, session: str, target: Path) -> None:
    """Writes the report of a session to ``target``, whole or not at all.

    Raises:
        SessionNotFound: no session of that name.
    """
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    publish_bytes(target, render(build_page(home, session)).encode())


def attachments(home: Home, session: str) -> dict[str, Any]:
    """What the phases of a session attached, by name.

    Lists of several phases are joined and mappings merged, in the order of the phases; of other values
    the latest counts.
    """
    merged: dict[str, Any] = {}
    for run in newest_runs(home, session):
        for name, value in home.registry.attachments(run.id).items():
            before = merged.get(name)
            if isinstance(before, list) and isinstance(value, list):
                merged[name] = [*before, *value]
            elif isinstance(before, dict) and isinstance(value, dict):
                merged[name] = {**before, **value}
            else:
                merged[name] = value
    return merged


def render(page: Mapping[str, Any]) -> str:
    """The page as HTML; every text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("agent_forge", "pipeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(figure=figure, byte_size=byte_size, duration=duration, sign=_sign)
    return environment.get_template("report.html.j2").render(page)


def build_page(home: Home, session: str) -> dict[str, Any]:
    """All that the template shows, as plain values and finished SVG."""
    detail = session_detail(home, session)
    attached = attachments(home, session)
    runs = detail["runs"]
    gates = [gate for run in runs for gate in run["gates"]]
    return {
        "version": __version__,
        "session": session,
        "created": detail["created"],
        "preset": detail["config"].get("preset"),
        "verdict": verdict(detail, gates),
        "headline": _headline(home, runs, gates),
        "strip": _strip(runs, detail["config"].get("phases", ())),
        "gates": gates,
        "measured": {run["phase"]: run["measured"] for run in runs if run["measured"]},
        "curves": report_charts.curve_charts(_curves(home, session)),
        "evolution": report_charts.evolution_charts(attached.get("fitness") or ()),
        "family": report_charts.family_tree_chart(attached.get("family_tree") or {}),
        "ladder": report_tables.ladder_table(attached.get("ladder") or ()),
        "samples": attached.get("samples") or [],
        "tables": report_tables.score_tables(attached),
        "thinking": report_tables.thought_tables(attached.get("quietstar") or {}),
        "ternary": report_tables.ternary_tables(attached.get("bitnet") or {}),
        "baking": report_tables.baking_tables(attached.get("baking") or {}),
        "edge": report_tables.edge_tables(attached.get("edge") or {}),
        "cascade": stored_cascade(home, session),
        "compression": report_tables.compression_tables(attached),
        "corpus": report_tables.corpus_tables(attached.get("corpus") or {}),
        "warnings": [{"phase": run["phase"], **warning} for run in runs for warning in run["warnings"]],
        "errors": [run for run in runs if run["error"]],
        "lineage": _lineage(home, runs),
        "environment": detail["facts"].get("environment") or {},
        "config": yaml.safe_dump(detail["config"], sort_keys=False, allow_unicode=True),
    }


def verdict(detail: Mapping[str, Any], gates: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """How the session ended: ``level`` (passed, failed, open) and one sentence."""
    blocking = [gate for gate in gates if not gate["passed"] and gate["severity"] == "block"]
    broken = [run for run in detail["runs"] if run["status"] not in (*FINISHED, "running")]
    if blocking:
        gate = blocking[0]
        more = f" So did {len(blocking) - 1} more." if len(blocking) > 1 else ""
        return {
            "level": "failed",
            "sentence": f"Gate {gate['metric']} of {gate['phase']} failed: it was {figure(gate['measured'])} and must "
            f"be {_sign(gate['comparison'])} {figure(gate['bound'])}.{more} {gate['why']}",
        }
    if broken and broken[-1]["status"] != "interrupted":
        run = broken[-1]
        return {"level": "failed", "sentence": f"Phase {run['phase']} {_ended(run)}"}
    if detail["status"] == "degraded":
        return {"level": "failed", "sentence": "A phase was left out after it failed; the run is degraded."}
    if detail["status"] == "completed":
        return {"level": "passed", "sentence": _held(gates)}
    name = detail["name"]
    return {
        "level": "open",
        "sentence": f"The session is {detail['status']}; `agent-forge resume {name}` goes on with it.",
    }


def _held(gates: Sequence[Mapping[str, Any]]) -> str:
    """The sentence of a run in which every blocking gate passed."""
    blocking = sum(gate["severity"] == "block" for gate in gates)
    warned = [f"{gate['metric']} of {gate['phase']}" for gate in gates if not gate["passed"]]
    said = f"All {blocking} blocking gates passed." if blocking else "The run is complete; it had no blocking gates."
    return f"{said} Not within its bound, which only warns: {', '.join(warned)}." if warned else said


def _sign(comparison: str) -> str:
    return {"<=": "≤", ">=": "≥", "==": "="}.get(comparison, comparison)


def _ended(run: Mapping[str, Any]) -> str:
    said = {"timeout": "ran out of time", "out_of_memory": "ran out of memory"}.get(run["status"], "failed")
    lines = [line for line in (run["error"] or "").strip().splitlines() if line.strip()]
    return f"{said}: {lines[-1].strip()}" if lines else f"{said}."


def _headline(
    home: Home, runs: Sequence[Mapping[str, Any]], gates: Sequence[Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """The few figures that a reader wants first."""
    rows = []
    if gates:
        rows.append(("gates passed", f"{sum(gate['passed'] for gate in gates)} of {len(gates)}"))
    seconds = [run["seconds"] for run in runs if run["seconds"] is not None and run["status"] != "reused"]
    if seconds:
        rows.append(("computing time", duration(sum(seconds))))
    peaks = [run["peak_memory_bytes"] for run in runs if run["peak_memory_bytes"]]
    if peaks:
        rows.append(("peak memory", byte_size(max(peaks))))
    if final := _final(runs):
        rows.append(("size of the result", byte_size(home.registry.artifact(final).size_bytes)))
    measured = {name: value for run in runs for name, value in run["measured"].items()}
    for name, label in _HEADLINE.items():
        if name in measured:
            rows.append((label, f"{100 * measured[name]:.1f}%" if "retention" in name else figure(measured[name])))
    return rows


def _final(runs: Sequence[Mapping[str, Any]]) -> str | None:
    """Digest of what the session is about: the agent file, else the newest model."""
    given: dict[str, str] = {}
    for run in runs:
        given.update({name: digests[0] for name, digests in run["outputs"].items()})
    return next((given[name] for name in _NEWEST_FIRST if name in given), None)


def _strip(runs: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> list[dict[str, Any]]:
    """Every phase of the design in its order, whether it ran or not."""
    by_phase = {run["phase"]: run for run in runs}
    strip = []
    for position, phase in enumerate(("data", *ORDER)):
        run = by_phase.get(phase, {})
        status = run.get("status") or ("waiting" if phase in ("data", *chosen) else "not in this run")
        failed = any(not gate["passed"] and gate["severity"] == "block" for gate in run.get("gates", ()))
        strip.append(
            {
                "position": position,
                "phase": phase,
                "about": _ABOUT[phase],
                "status": "gate failed" if failed else status.replace("_", " "),
                "level": _level(status, failed),
                "seconds": run.get("seconds"),
                "peak_memory_bytes": run.get("peak_memory_bytes"),
            }
        )
    return strip


def _level(status: str, failed: bool) -> str:
    if failed or status in ("failed", "timeout", "out_of_memory", "gate_failed", "degraded"):
        return "failed"
    if status in ("completed", "reused"):
        return "passed"
    return "absent" if status.startswith("not ") else "open"


def _curves(home: Home, session: str) -> dict[str, Any]:
    """Curves by phase."""
    found = {run.phase: read_curves(curve_file(home, run), points=_CURVE_POINTS) for run in newest_runs(home, session)}
    return {phase: curves for phase, curves in found.items() if curves}


def _lineage(home: Home, runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    final = _final(runs)
    return lineage_rows(home, final) if final else []
