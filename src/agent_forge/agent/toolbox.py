"""The tools of an agent: described by a manifest, checked, called, counted.

``tools.json`` beside the weights is the manifest: ``{"format": 1, "tools": [{"name", "description", "inputSchema",
"kind", "settings"}]}``. A kind is a piece of this program (`agent_forge.agent.kinds`); a manifest can name one
and set it, it cannot bring code. A tool that this machine cannot run safely stays in the box as disabled, and says so
when it is called. Names, descriptions and schemas have the shape of the Model Context Protocol
(2025-06-18, ``tools/list``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from agent_forge.agent.belongings import KNOWLEDGE, MANIFEST, read_belongings
from agent_forge.agent.calls import NAME, Call, result_turn
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.schema import ToolError, check_schema, from_text, validated
from agent_forge.agent.transcript import printable
from agent_forge.errors import ArtifactCorrupt, ConfigError

FORMAT = 1
MAX_RESULT_CHARACTERS = 2000
_FIELDS = {"name", "description", "inputSchema", "kind", "settings"}

Run: TypeAlias = Callable[[Mapping[str, Any]], str]
"""Does the work for checked arguments; raises `ToolError`."""


@dataclass(frozen=True)
class Tool:
    """One tool.

    Attributes:
        name: how the model calls it.
        description: what it does, to be read after its signature.
        schema: JSON schema of its arguments.
        kind: which piece of this program does the work.
        settings: of that piece.
        run: does it.
        disabled: why it cannot be used here; empty if it can.
        notes: what an audit should know of every call, such as the tier of the sandbox.
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    kind: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    run: Run = field(default=lambda arguments: "", repr=False, compare=False)
    disabled: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def signature(self) -> str:
        """``name(first, second)``."""
        return f"{self.name}({', '.join(self.schema['properties'])})"

    def to_json(self) -> dict[str, Any]:
        """Its row of the manifest."""
        return {
            "name": self.name, "description": self.description, "inputSchema": dict(self.schema),
            "kind": self.kind, "settings": dict(self.settings),
        }  # fmt: skip


@dataclass(frozen=True)
class Result:
    """What came of a call.

    Attributes:
        text: the result, or one sentence about what went wrong.
        ok: False if it went wrong.
        seconds: how long it took.
        notes: such as the tier of the sandbox.
    """

    text: str
    ok: bool
    seconds: float = 0.0
    notes: Mapping[str, Any] = field(default_factory=dict)

    def turn(self) -> str:
        """What the model reads."""
        return result_turn(self.text, self.ok)


Audit: TypeAlias = Callable[[str, Mapping[str, Any] | str, Result], None]
"""Told of every call: the tool's name, its arguments (as text where they could not be read), the result."""


class Toolbox:
    """Tools by name.

    Args:
        tools: in the order in which they are shown.
        knowledge: what `lookup` and `search` read; it is written with the manifest.
        audit: told of every call.

    Raises:
        ConfigError: a name that cannot be, two of one name, or a schema that cannot be checked.
    """

    def __init__(self, tools: Iterable[Tool], knowledge: Knowledge | None = None, audit: Audit | None = None) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if not NAME.fullmatch(tool.name):
                raise ConfigError(f"{tool.name!r} cannot be the name of a tool; names match {NAME.pattern}")
            if tool.name in self.tools:
                raise ConfigError(f"there are two tools named {tool.name!r}")
            check_schema(tool.name, tool.schema)
            self.tools[tool.name] = tool
        self.knowledge = knowledge
        self.audit = audit

    @classmethod
    def from_json(
        cls,
        manifest: str | bytes,
        knowledge: str | bytes | None = None,
        *,
        folder: Path | None = None,
        embed: Callable[[Sequence[str]], Any] | None = None,
        audit: Audit | None = None,
        where: str = MANIFEST,
    ) -> Toolbox:
        """The toolbox of a manifest.

        Args:
            manifest: text of ``tools.json``.
            knowledge: text of ``knowledge.json``.
            folder: text files for retrieval.
            embed: texts → vectors, for retrieval by them (`agent_forge.agent.embeddings.embedder`).
            audit: told of every call.
            where: named in errors.

        Raises:
            ArtifactCorrupt: one of the two cannot be read.
            ConfigError: a kind, a setting or a schema that this version does not know.
        """
        from agent_forge.agent.kinds import Resources, make_tool

        index = None if knowledge is None else Knowledge.from_json(knowledge, KNOWLEDGE)
        given = Resources(index, folder, embed)
        return cls((make_tool(row, given) for row in _rows(manifest, where)), index, audit)

    @classmethod
    def load(cls, checkpoint: Path, **options: Any) -> Toolbox | None:
        """The toolbox of a checkpoint folder, or None if the model has no tools; options as `from_json`."""
        files = read_belongings(checkpoint)
        if MANIFEST not in files:
            return None
        where = str(Path(checkpoint) / MANIFEST)
        return cls.from_json(files[MANIFEST], files.get(KNOWLEDGE), where=where, **options)

    def save(self, checkpoint: Path) -> None:
        """Writes ``tools.json`` and, if there is any, ``knowledge.json``."""
        for name, text in self.files().items():
            (Path(checkpoint) / name).write_text(text, encoding="utf-8")

    def files(self) -> dict[str, str]:
        """What travels with a model: file name → text."""
        rows = [tool.to_json() for tool in self.tools.values()]
        text = json.dumps({"format": FORMAT, "tools": rows}, indent=1, ensure_ascii=False) + "\n"
        return {MANIFEST: text} | ({} if self.knowledge is None else {KNOWLEDGE: self.knowledge.to_json()})

    def __contains__(self, name: object) -> bool:
        return name in self.tools

    def __len__(self) -> int:
        return len(self.tools)

    def only(self, names: Collection[str]) -> Toolbox:
        """A toolbox with some of the tools.

        Raises:
            ConfigError: one of the names is not among them.
        """
        if unknown := sorted(set(names) - set(self.tools)):
            raise ConfigError(f"no tool {unknown[0]!r}; there are {', '.join(self.tools) or 'none'}")
        return Toolbox((tool for tool in self.tools.values() if tool.name in names), self.knowledge, self.audit)

    def prompt(self) -> str:
        """The line that tells a model what it has: ``Tools: name(arguments) does this; …``."""
        return f"Tools: {'; '.join(f'{tool.signature} {tool.description}' for tool in self.tools.values())}."

    def call(self, call: Call) -> Result:
        """Does what the model asked for. What goes wrong is a result, too: nothing is raised for it."""
        return self._run(call.name, call.arguments)

    def call_json(self, name: str, arguments: Mapping[str, Any]) -> Result:
        """The same with arguments by name, as other programs give them."""
        return self._run(name, arguments)

    def to_mcp(self) -> dict[str, Any]:
        """The answer to ``tools/list`` of the Model Context Protocol; disabled tools are left out."""
        return {
            "tools": [
                {"name": tool.name, "description": tool.description, "inputSchema": dict(tool.schema)}
                for tool in self.tools.values()
                if not tool.disabled
            ]
        }

    def call_mcp(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to ``tools/call``: ``params`` are ``{"name": …, "arguments": {…}}``."""
        name, arguments = params.get("name"), params.get("arguments", {})
        if not isinstance(name, str) or not isinstance(arguments, Mapping):
            result = Result("a call needs a name and an object of arguments", ok=False)
        else:
            result = self.call_json(name, arguments)
        return {"content": [{"type": "text", "text": result.text}], "isError": not result.ok}

    def _run(self, name: str, arguments: Mapping[str, Any] | str) -> Result:
        start = time.perf_counter()
        read: Mapping[str, Any] | str = arguments
        notes: Mapping[str, Any] = {}
        try:
            tool = self.tools.get(name)
            if tool is None:
                raise ToolError(f"there is no tool {name[:60]!r}; there are {', '.join(self.tools) or 'none'}")
            notes = tool.notes
            if tool.disabled:
                raise ToolError(tool.disabled)
            read = (
                from_text(tool.schema, arguments) if isinstance(arguments, str) else validated(tool.schema, arguments)
            )
            text, ok = tool.run(read), True
        except ToolError as error:
            text, ok = str(error), False
        result = Result(_cut(text), ok, time.perf_counter() - start, notes)
        if self.audit is not None:
            self.audit(name, read, result)
        return result


def _rows(manifest: str | bytes, where: str) -> list[dict[str, Any]]:
    try:
        value = json.loads(manifest)
    except ValueError as error:
        raise ArtifactCorrupt(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict) or not isinstance(value.get("tools"), list):
        raise ArtifactCorrupt(f"{where} has no list of tools")
    if value.get("format") != FORMAT:
        raise ArtifactCorrupt(f"{where} has format {value.get('format')!r}, this version reads {FORMAT}")
    for row in value["tools"]:
        if not isinstance(row, dict) or set(row) != _FIELDS or not isinstance(row["inputSchema"], dict):
            raise ArtifactCorrupt(f"{where}: a tool must have exactly {', '.join(sorted(_FIELDS))}, not {row!r:.200}")
        if not all(isinstance(row[key], str) for key in ("name", "description", "kind")):
            raise ArtifactCorrupt(f"{where}: name, description and kind of a tool must be text: {row!r:.200}")
    return value["tools"]


def _cut(text: str) -> str:
    """What can be shown: `printable`, and no endless text."""
    text = printable(text)
    if len(text) <= MAX_RESULT_CHARACTERS:
        return text
    return f"{text[:MAX_RESULT_CHARACTERS]}… ({len(text)} characters)"
