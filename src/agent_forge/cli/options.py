"""Options that several commands share."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import platformdirs
import typer

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Where sessions and models live (default: AGENT_FORGE_HOME, else the data directory)."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
PresetOption = Annotated[str, typer.Option("--preset", help="smoke, demo, small or base25m.")]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", help="Text to learn from: file, folder or hub name, each with :weight if wanted. Repeatable."
    ),
]
EvalDataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--eval-data", help="Text that is only reported on, under a name of its own: stories-eval=PATH. Repeatable."
    ),
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key.path=value, for example cognate.seed=7.")]
PhasesOption = Annotated[str | None, typer.Option("--phases", help="Phases to run, separated by commas.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Name of the session (default: a new one).")]


def home_path(given: Path | None) -> Path:
    """The home that was named, else AGENT_FORGE_HOME, else the user's data directory."""
    if given is not None:
        return given
    if named := os.environ.get("AGENT_FORGE_HOME"):
        return Path(named)
    return Path(platformdirs.user_data_dir("agent-forge", appauthor=False))


def phase_names(text: str | None) -> list[str]:
    """``a,b`` as names."""
    return [name.strip() for name in text.split(",") if name.strip()] if text else []


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")
