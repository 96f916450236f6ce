"""`sessions`, `models`, `report`, `verify`, `doctor`, `presets`, `data`: what is there, and whether it is well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from agent_forge.cli.options import HomeOption, JsonOption, home_path, print_json


def add_to(app: typer.Typer) -> None:
    """Registers the commands and their groups."""
    sessions = typer.Typer(help="What ran.", no_args_is_help=True)
    sessions.command("list")(list_sessions)
    sessions.command("show")(show_session)
    sessions.command()(pin)
    sessions.command()(unpin)
    sessions.command()(delete)
    sessions.command()(gc)
    app.add_typer(sessions, name="sessions")
    models = typer.Typer(help="What was made.", no_args_is_help=True)
    models.command("list")(list_models)
    models.command("show")(show_model)
    models.command()(lineage)
    app.add_typer(models, name="models")
    presets = typer.Typer(help="Complete configurations.", no_args_is_help=True)
    presets.command("list")(list_presets)
    presets.command("show")(show_preset)
    app.add_typer(presets, name="presets")
    data = typer.Typer(help="Text.", no_args_is_help=True)
    data.command("inspect")(inspect)
    app.add_typer(data, name="data")
    app.command()(cascade)
    app.command()(report)
    app.command()(verify)
    app.command()(doctor)


def list_sessions(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All sessions, newest first."""
    from agent_forge.cli.show import show_rows
    from agent_forge.pipeline.views import session_rows

    rows = _rows(home, session_rows)
    if as_json:
        print_json(rows)
    else:
        columns = ("name", "status", "created", "pinned", "phases")
        show_rows("sessions", columns, [[row[column] for column in columns] for row in rows])


def _rows(home: Path | None, view: Callable[[Any], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What ``view`` finds in the home; nothing, and a note, where there is none: looking makes no home."""
    from agent_forge.storage.home import Home

    path = home_path(home)
    if not (path / "VERSION").is_file():
        typer.echo(f"there is no home at {path} yet; `agent-forge run` makes one", err=True)
        return []
    with Home.open(path, create=False) as place:
        return view(place)


def show_session(session: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """One session: phases, gates and artifacts."""
    from agent_forge.cli.show import show_rows
    from agent_forge.pipeline.views import session_detail
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        detail = session_detail(place, session)
    if as_json:
        print_json(detail)
        return
    phases = [(run["phase"], run["status"], run["seconds"], ", ".join(run["outputs"])) for run in detail["runs"]]
    show_rows(f"session {session}: {detail['status']}", ("phase", "status", "seconds", "outputs"), phases)
    figures = [(run["phase"], name, value) for run in detail["runs"] for name, value in run["measured"].items()]
    show_rows("measured on the test split", ("phase", "figure", "value"), figures)


def pin(session: str, home: HomeOption = None) -> None:
    """Protect a session from gc."""
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        place.registry.pin(session)
    typer.echo(f"{session} is pinned")


def unpin(session: str, home: HomeOption = None) -> None:
    """Let gc take a session again."""
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        place.registry.unpin(session)
    typer.echo(f"{session} is not pinned")


def delete(session: str, home: HomeOption = None) -> None:
    """Forget a session; `gc` then frees the files that nobody else uses."""
    from agent_forge.storage.home import Home
    from agent_forge.storage.retention import delete_session

    with Home.open(home_path(home), create=False) as place:
        delete_session(place, session)
    typer.echo(f"{session} is deleted; `agent-forge sessions gc --apply` frees its files")


def gc(
    home: HomeOption = None,
    apply: Annotated[bool, typer.Option("--apply/--dry-run", help="Delete, or only say what would go.")] = False,
    days: Annotated[float, typer.Option("--days", help="Sessions older than this go.")] = 30.0,
    keep: Annotated[int, typer.Option("--keep", help="Sessions kept at most.")] = 50,
    grace_seconds: Annotated[
        float, typer.Option("--grace-seconds", help="Younger files stay; a run may need them.")
    ] = 3600.0,
    as_json: JsonOption = False,
) -> None:
    """Free what no session needs any more; pinned and running sessions stay."""
    from agent_forge.storage.home import Home
    from agent_forge.storage.retention import apply_retention, plan_retention

    with Home.open(home_path(home), create=False) as place:
        doomed = plan_retention(place, keep_sessions=keep, max_age_days=days, grace_seconds=grace_seconds)
        freed = apply_retention(place, doomed) if apply else doomed.freed_bytes
    names = [session.name for session in doomed.sessions]
    if as_json:
        print_json({"applied": apply, "sessions": names, "files": len(doomed.blobs), "freed_bytes": freed})
    else:
        verb = "freed" if apply else "would free"
        typer.echo(f"{verb} {freed / 2**20:.1f} MiB; {len(doomed.blobs)} files; sessions: {', '.join(names) or 'none'}")


def list_models(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """All checkpoints and agent files."""
    from agent_forge.cli.show import show_rows
    from agent_forge.pipeline.views import model_rows

    rows = _rows(home, model_rows)
    if as_json:
        print_json(rows)
    else:
        columns = ("digest", "kind", "phase", "role", "size_bytes", "sessions")
        cells = [[str(row[column])[:12] if column == "digest" else row[column] for column in columns] for row in rows]
        show_rows("models", columns, cells)


def show_model(digest: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """One model: files and facts."""
    from agent_forge.pipeline.views import model_detail
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        detail = model_detail(place, digest)
    if as_json:
        print_json(detail)
    else:
        typer.echo(yaml.safe_dump(detail, sort_keys=False, allow_unicode=True), nl=False)


def lineage(digest: str, home: HomeOption = None, as_json: JsonOption = False) -> None:
    """From what a model was made."""
    from agent_forge.pipeline.views import lineage_rows
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        rows = lineage_rows(place, digest)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        typer.echo(f"{'  ' * row['depth']}{row['digest'][:12]} {row['kind']} from {row['phase']}")


def cascade(
    session: str,
    home: HomeOption = None,
    documents: Annotated[int, typer.Option("--documents", min=1, help="Of each domain of the test split.")] = 8,
    questions: Annotated[int, typer.Option("--questions", min=0, help="To the tools; 0 = none.")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure every model of a session by the same text and questions, from the first phase to the file."""
    from agent_forge.cli.show import show_cascade
    from agent_forge.pipeline.cascade import cascade as measure_cascade
    from agent_forge.storage.home import Home

    with Home.open(home_path(home), create=False) as place:
        rows = measure_cascade(place, session, documents=documents, questions=questions)
    if as_json:
        print_json(rows)
    else:
        show_cascade(rows)


def report(
    session: str,
    home: HomeOption = None,
    out: Annotated[Path | None, typer.Option("--out", help="The HTML file (default: SESSION.html here).")] = None,
) -> None:
    """Write one self-contained HTML page about a session."""
    from agent_forge.pipeline.report import write_report
    from agent_forge.storage.home import Home

    target = out or Path(f"{session}.html")
    with Home.open(home_path(home), create=False) as place:
        write_report(place, session, target)
    typer.echo(f"wrote {target}")


def verify(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Re-hash everything that is stored."""
    from agent_forge.errors import ArtifactCorrupt
    from agent_forge.storage.home import Home
    from agent_forge.storage.verify import verify as verify_home

    with Home.open(home_path(home), create=False) as place:
        found = verify_home(place)
    if as_json:
        print_json({"ok": found.ok, "problems": found.problems, **asdict(found)})
    else:
        state = "clean" if found.ok else "DAMAGED"
        typer.echo(
            f"{state}: {found.artifacts} artifacts, {found.files} files, {found.size_bytes / 2**20:.1f} MiB hashed; "
            f"database {found.integrity}; SQLite {found.sqlite}"
        )
        for problem in found.problems:
            typer.echo(f"  {problem}")
    if not found.ok:
        raise ArtifactCorrupt(f"{len(found.problems)} problems; the first: {found.problems[0]}")


def doctor(
    session: Annotated[str | None, typer.Argument(help="Also read the curves of this session.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at the machine, the home and a run, and say what is wrong and what to try."""
    from agent_forge.pipeline.doctor import examine

    findings = examine(home_path(home), session)
    if as_json:
        print_json(findings)
        return
    for finding in findings:
        typer.echo(f"[{finding['level']}] {finding['what']}: {finding['found']}")
        if finding.get("advice"):
            typer.echo(f"    {finding['advice']}")


def list_presets(as_json: JsonOption = False) -> None:
    """Names and what they are for."""
    from agent_forge.config import PRESETS, load_preset

    rows = [{"name": name, "about": load_preset(name)["about"]} for name in PRESETS]
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            typer.echo(f"{row['name']:10} {row['about']}")


def show_preset(name: str, as_json: JsonOption = False) -> None:
    """A preset with all its values."""
    from agent_forge.config import build_config

    values = build_config(name).model_dump(mode="json")
    if as_json:
        print_json(values)
    else:
        typer.echo(yaml.safe_dump(values, sort_keys=False), nl=False)


def inspect(paths: Annotated[list[str], typer.Argument(help="Files or folders.")], as_json: JsonOption = False) -> None:
    """What a corpus holds: documents, bytes, tokens, and what would be dropped and why."""
    from agent_forge.cli.show import show_rows
    from agent_forge.data.inspect import inspect_sources

    rows = inspect_sources(paths)
    if as_json:
        print_json(rows)
        return
    cells = [
        (row["source"], row["documents"], row["kept"], row["bytes"], row["tokens"], row["dropped"]) for row in rows
    ]
    show_rows("corpus", ("source", "documents", "kept", "bytes", "tokens", "dropped"), cells)
