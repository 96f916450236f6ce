"""`edge bench`: how an agent fits the machines that it is meant for; `phases`: the map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_forge.cli.alone import sound_folder
from agent_forge.cli.options import HomeOption, JsonOption, home_path, print_json
from agent_forge.errors import ConfigError

if TYPE_CHECKING:
    from agent_forge.phases.edge.targets import Fit, Speed

edge_app = typer.Typer(help="Agents on the machines that they are meant for.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.add_typer(edge_app, name="edge")
    app.command()(phases)


@edge_app.command()
def bench(
    agent: Annotated[str, typer.Argument(help="Checkpoint folder, session, digest, .forge file, or an ONNX export.")],
    target: Annotated[
        list[str] | None, typer.Option("--target", help="cpu-x86, cpu-arm64, gpu-6gb or browser. Default: all of them.")
    ] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="An ONNX export of it. Default: one is made.")] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=0, help="Of the processor; 0 = as many as it has, at most the targets'.")
    ] = 0,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="After the first.")] = 64,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Medians are over so many.")] = 5,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure first token, tokens a second, memory and size, and say which targets are met.

    Of an ONNX export this is the graph alone, and the target gpu-6gb, which is estimated from PyTorch, is left out.
    """
    from agent_forge.evaluation.processor import usable_cores
    from agent_forge.phases.edge.targets import TARGETS, fit

    unknown = sorted(set(target or ()) - set(TARGETS))
    if unknown:
        raise ConfigError(f"unknown target {', '.join(unknown)}; the targets are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in (target or TARGETS)]
    threads = threads or min(usable_cores(), max(each.cores for each in targets))
    options = {"threads": threads, "new_tokens": tokens, "repeats": repeats}
    speeds = _measured(agent, home_path(home), onnx, options)
    # a card's figures follow from torch's operations: of a graph alone there are none
    counted = any(speed.operations_token for speed in speeds)
    fits = [fit(each, speeds) for each in targets if target or counted or each.kind != "cuda"]
    if as_json:
        print_json({"measured": [vars(speed) for speed in speeds], "targets": [each.to_json() for each in fits]})
    else:
        _show(speeds, fits)


def phases(as_json: JsonOption = False) -> None:
    """Print the map: the eight phases, what each takes, gives and does."""
    rows = _map()
    if as_json:
        print_json(rows)
        return
    from agent_forge.cli.show import show_rows

    columns = ("phase", "takes", "gives", "what it does")
    cells = [
        (
            f"{row['number']} {row['phase']}",
            _handoffs(row["takes"]),
            _handoffs(row["gives"]),
            row["does"],
        )
        for row in rows
    ]
    show_rows("the eight phases", columns, cells)
    typer.echo("some of them: `agent-forge run --phases NAME,NAME`")


def _map() -> list[dict[str, Any]]:
    from agent_forge.phases import ORDER

    rows = []
    for number, name in enumerate(ORDER, 1):
        package = import_module(f"agent_forge.phases.{name}")
        declared = package.DECLARATION
        does = (package.__doc__ or "").strip().splitlines()[0].partition(": ")[2].rstrip(".").replace("`", "")
        row = {"number": number, "phase": name, "takes": dict(declared.consumes), "gives": dict(declared.produces)}
        rows.append({**row, "does": does, "version": declared.version})
    return rows


def _handoffs(kinds: dict[str, str]) -> str:
    """``model (checkpoint)``; a kind says it all where the name is the same."""
    return ", ".join(name if name == kind else f"{name} ({kind})" for name, kind in kinds.items())


def _measured(agent: str, home: Path, onnx: Path | None, options: dict[str, int]) -> list[Speed]:
    """Every form of the agent that can run here; an export is one form and has no others."""
    from agent_forge.phases.edge.speed import JOINED, ONNX, TORCH, measure
    from agent_forge.pipeline.resolve import is_export, resolve_model

    path = resolve_model(agent, home)
    if is_export(path):
        if onnx is not None:
            raise ConfigError(f"{agent} is an ONNX export itself; --onnx is for the checkpoint that it was made from")
        return [measure(path, ONNX, **options)]
    with sound_folder(path) as folder, TemporaryDirectory() as place:
        speeds = [measure(folder, runtime, **options) for runtime in (TORCH, JOINED)]
        if path.is_file():  # what is shipped is the file, not the folder that torch reads here
            speeds = [replace(speed, size_bytes=path.stat().st_size) for speed in speeds]
        exported = onnx or _export(folder, Path(place, "onnx"))
        if exported is not None:
            speeds.append(measure(exported, ONNX, **options))
    return speeds


def _export(folder: Path, out: Path) -> Path | None:
    """An ONNX export for the processor, where the extra is installed."""
    if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
        typer.echo("onnxruntime is left out: pip install agent-forge[edge]", err=True)
        return None
    from agent_forge.phases.edge.export_onnx import export_onnx

    export_onnx(folder, out, "cpu")
    return out


def _show(speeds: Sequence[Speed], fits: Sequence[Fit]) -> None:
    from agent_forge.cli.show import show_rows

    forms = [
        (s.runtime, s.cores, f"{1000 * s.first_token_seconds:.1f}", f"{s.tokens_per_second:.0f}",
         f"{s.memory_bytes / 1e6:.0f}", f"{s.size_bytes / 1e6:.2f}")
        for s in speeds
    ]  # fmt: skip
    columns = ("form", "threads", "first token, ms", "tokens/s", "peak memory, MB", "size, MB")
    show_rows("measured here, prompt of 128 tokens", columns, forms)
    cells = [
        (each.target, each.runtime, row.metric, _number(row.metric, row.value), _number(row.metric, row.bound),
         "met" if row.met else "MISSED", row.basis, row.how)
        for each in fits
        for row in each.verdicts
    ]  # fmt: skip
    show_rows("targets", ("target", "form", "figure", "found", "bound", "", "", "how"), cells)
    if max(speed.load for speed in speeds) > 1:
        typer.echo("other programs kept the processor busy: an idle machine is faster than these figures")


def _number(metric: str, value: float) -> str:
    if metric == "first_token_seconds":
        return f"{1000 * value:.1f} ms"
    return f"{value / 1e6:.2f} MB" if metric.endswith("bytes") else f"{value:.0f}/s"
