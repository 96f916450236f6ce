"""The command line: parse, call, print. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import os
import sys
import traceback

import typer

from agent_forge import __version__
from agent_forge.cli import alone, chat, edge, models, registry, run
from agent_forge.errors import ForgeError

# typer may carry a click of its own: its errors are found through one that it exports, not through ``import click``.
UsageErrors: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="agent-forge",
    help="Turn text, or a language model, into a small specialised agent on one ordinary machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"agent-forge {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


run.add_to(app)
chat.add_to(app)
models.add_to(app)
alone.add_to(app)
registry.add_to(app)
edge.add_to(app)


def main() -> None:
    """Entry point: turns every expected error into one sentence and its exit code."""
    # Threads that spin at barriers for a core that another program holds made training ten times slower on a busy
    # machine; it must be set before torch is loaded, and the processes of the phases inherit it.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    try:
        status = app(standalone_mode=False)
    except ForgeError as error:
        _say(error)
        sys.exit(error.exit_code)
    except UsageErrors as error:
        error.show()  # type: ignore[attr-defined]
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except (OSError, ValueError) as error:
        _say(error)
        sys.exit(4)
    sys.exit(status if isinstance(status, int) else 0)


def _say(error: BaseException) -> None:
    if "--debug" in sys.argv:
        traceback.print_exception(error)
        if trace := getattr(error, "trace", ""):
            print(trace, file=sys.stderr)
    print(f"agent-forge: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
