"""Writes the pages that are made from the code: ``docs/cli.md`` and ``docs/papers.md``.

``make docs`` calls it, and a house test fails when a page is stale.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parents[1]
_ROOMS = ("phases", "model", "optim", "data", "evaluation", "agent")
_PAPER = re.compile(r"arXiv[:\s]*(\d{4}\.\d{4,5})", re.IGNORECASE)
_NAME = r"(?:(?:van|von|den|der|de|la) )*[A-ZÀ-Ž][\w’'-]*"
_AUTHORS = re.compile(rf"({_NAME}(?:(?:, | and | & | ){_NAME})*(?: et al\.)?),? ((?:19|20)\d\d)\b")
_TITLE = re.compile(r"[\"“]([^\"”]+)[\"”]")
_SHORT_NAME = re.compile(r"^ \(([^(),]+)[,)]")
_WIDTH = 80


@dataclass(frozen=True)
class Citation:
    """One paper, as the header of a file names it."""

    file: str
    paper: str
    arxiv: str


def pages() -> dict[str, str]:
    """The generated pages: path from the root of the repository → text."""
    return {"docs/cli.md": cli_page(), "docs/papers.md": papers_page()}


def main() -> int:
    """Writes every page that is stale; says which."""
    for name, text in pages().items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    return 0


def cli_page() -> str:
    """The help of every command, outermost first."""
    from agent_forge.cli.main import app

    parts = ["# Command line", "", "Made by `make docs` from the commands themselves.", ""]
    for path, command in _commands("agent-forge", typer.main.get_command(app)):
        with typer.Context(command, info_name=path, terminal_width=_WIDTH, max_content_width=_WIDTH) as context:
            text = command.get_help(context)
        parts += [f"## `{path}`", "", "```text", *(line.rstrip() for line in text.strip().splitlines()), "```", ""]
    return "\n".join(parts)


def _commands(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(f"{path} {name}", each)


def papers_page() -> str:
    """Every paper that the header of an algorithm file names, with the files that follow it."""
    papers: dict[str, list[Citation]] = {}
    for each in citations():
        papers.setdefault(each.arxiv, []).append(each)
    lines = [
        "# Papers",
        "",
        "Made by `make docs` from the headers of the files. What we do differently is written there, numbered.",
        "",
        "| paper | arXiv | files |",
        "|---|---|---|",
    ]
    for arxiv, found in sorted(papers.items()):
        # The header that says most about a paper names it for all.
        name = max((each.paper for each in found), key=len)
        files = "<br>".join(f"[`{file}`](../src/agent_forge/{file})" for file in sorted({each.file for each in found}))
        lines.append(f"| {_cell(name)} | [{arxiv}](https://arxiv.org/abs/{arxiv}) | {files} |")
    return "\n".join([*lines, ""])


def citations() -> list[Citation]:
    """The papers of every file whose header names an arXiv id."""
    found = []
    for room in _ROOMS:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            found += list(cited(path.relative_to(PACKAGE).as_posix(), header))
    return found


def cited(file: str, header: str) -> Iterator[Citation]:
    """The papers of one header: the last authors and year before each arXiv id, with a title or a name between."""
    flat = " ".join(header.split())
    start = 0
    for match in _PAPER.finditer(flat):
        before, start = flat[start : match.start()], match.end()
        yield Citation(file, _named(before), match.group(1))


def _named(before: str) -> str:
    found = list(_AUTHORS.finditer(before))
    if not found:
        return ""
    name = f"{found[-1].group(1)} {found[-1].group(2)}"
    rest = before[found[-1].end() :]
    if title := _TITLE.search(rest):
        return f"{name}: {title.group(1)}"
    if short := _SHORT_NAME.match(rest):
        return f"{name}: {short.group(1).strip()}"
    return name


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main())
