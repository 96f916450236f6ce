"""`run`, `plan`, `resume`: the pipeline from the command line."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from agent_forge.cli.options import (
    DataOption,
    EvalDataOption,
    HomeOption,
    JsonOption,
    PhasesOption,
    PresetOption,
    SessionOption,
    SetOption,
    home_path,
    phase_names,
    print_json,
)
from agent_forge.errors import ForgeError

if TYPE_CHECKING:
    from agent_forge.config import ForgeConfig


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(run)
    app.command()(plan)
    app.command()(resume)


def run(
    preset: PresetOption = "demo",
    data: DataOption = None,
    eval_data: EvalDataOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
    phases: PhasesOption = None,
    session: SessionOption = None,
    as_json: JsonOption = False,
) -> int:
    """Run the pipeline; what is already known is reused."""
    config = _chosen(preset, set_, data, eval_data, phases)
    return _execute(config, home_path(home), session, as_json)


def resume(session: str, home: HomeOption = None, as_json: JsonOption = False) -> int:
    """Go on with a session where it stopped."""
    from agent_forge.pipeline.session import recorded_config
    from agent_forge.storage.home import Home

    place = Home.open(home_path(home), create=False)
    config = recorded_config(place, session)
    place.close()
    return _execute(config, home_path(home), session, as_json)


def plan(
    preset: PresetOption = "demo",
    data: DataOption = None,
    eval_data: EvalDataOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
    phases: PhasesOption = None,
    session: SessionOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a run would do, and what it would need, before anything starts."""
    from agent_forge.cli.show import show_plan
    from agent_forge.pipeline.estimate import estimate

    config = _chosen(preset, set_, data, eval_data, phases)
    report = estimate(config, home_path(home))
    if as_json:
        print_json(report)
    else:
        show_plan(report)


def _chosen(
    preset: str, set_: list[str] | None, data: list[str] | None, eval_data: list[str] | None, phases: str | None
) -> ForgeConfig:
    """The configuration that the options of `run` and `plan` stand for."""
    from agent_forge.config import build_config

    return build_config(preset, set_ or (), sources=data or (), held_out=eval_data or (), phases=phase_names(phases))


def _execute(config: ForgeConfig, home: Path, name: str | None, as_json: bool) -> int:
    from agent_forge.cli.show import Watcher, show_outcome
    from agent_forge.pipeline.ingest import source_digests
    from agent_forge.pipeline.plan import build_plan
    from agent_forge.pipeline.runner import Runner
    from agent_forge.pipeline.session import open_session
    from agent_forge.storage.home import Home

    steps = build_plan(config)
    sources = source_digests(config.data)  # a missing or unknown source is said before a session begins
    place = Home.open(home)
    refused = False
    try:
        with (
            open_session(place, name, config) as session,
            Watcher(as_json, [step.name for step in steps.steps]) as watcher,
        ):
            runner = Runner(session, steps, watcher.emit, sources=sources)
            before = signal.signal(signal.SIGINT, lambda *_: runner.request_stop())
            try:
                outcome = runner.run()
            finally:
                signal.signal(signal.SIGINT, before)
        show_outcome(outcome, place, as_json)
    except ForgeError as error:
        refused = error.exit_code == 2
        raise
    finally:
        # What was refused leaves no home that it alone had made.
        place.close_unused() if refused else place.close()
    return 0 if outcome.passed else 3
