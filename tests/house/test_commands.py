"""Every command that README and docs show is one that the program takes."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from agent_forge.cli.main import UsageErrors, app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = [
    pytest.param(line, id=f"{page.name}: {line.split('#')[0].strip()[:60]}")
    for page in PAGES
    if page.name != "cli.md"  # made from the commands themselves
    for block in BLOCK.findall(page.read_text(encoding="utf-8"))
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("agent-forge ", "forge "))
]


def taken(line):
    """The command that a line ends at; raises what the command line would refuse."""
    arguments = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):
        _, command, arguments = command.resolve_command(typer.Context(command), arguments)
    command.make_context(command.name, arguments)
    return command


def test_commands_are_shown():
    assert len(SHOWN) > 8


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_pages_is_understood(line):
    assert taken(line).callback is not None


@pytest.mark.parametrize("line", ["agent-forge run --no-such", "agent-forge chat", "agent-forge dance"])
def test_what_the_program_does_not_take_is_noticed(line):
    with pytest.raises(UsageErrors):
        taken(line)
