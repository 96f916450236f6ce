"""The kinds of tools in one table: what a manifest may name, the settings that each takes, the tools of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from agent_forge.agent.calculator import MAX_CHARACTERS, calculate
from agent_forge.agent.clock import hours_later
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.python_tool import python_tool
from agent_forge.agent.schema import object_schema
from agent_forge.agent.toolbox import Audit, Run, Tool, Toolbox
from agent_forge.data.synthetic_world.tools import TOOLS
from agent_forge.errors import ConfigError

Settings: TypeAlias = Mapping[str, Any]
Made: TypeAlias = tuple[Run, str, Mapping[str, Any]]
"""What does the work, why it cannot be used here (or nothing), notes for the audit."""
_NO_INDEX = "this tool has no index to read"


def _calculator(settings: Settings, knowledge: Knowledge | None, folder: Path | None) -> Made:
    return lambda given: calculate(given["expression"]), "", {}


def _clock(settings: Settings, knowledge: Knowledge | None, folder: Path | None) -> Made:
    return lambda given: hours_later(given["hour"], given["later"]), "", {}


def _lookup(settings: Settings, knowledge: Knowledge | None, folder: Path | None) -> Made:
    def run(given: Mapping[str, Any]) -> str:
        assert knowledge is not None
        subject, attribute = given.values()
        return knowledge.lookup(subject, attribute)

    return run, "" if knowledge is not None else _NO_INDEX, {}


def _search(settings: Settings, knowledge: Knowledge | None, folder: Path | None) -> Made:
    def run(given: Mapping[str, Any]) -> str:
        assert knowledge is not None
        attribute, value = given.values()
        found = knowledge.search(attribute, value, limit=settings["limit"], within=settings["within"])
        return ", ".join(found) or settings["nothing"]

    return run, "" if knowledge is not None else _NO_INDEX, {}


def _python(settings: Settings, knowledge: Knowledge | None, folder: Path | None) -> Made:
    return python_tool(settings["cpu_seconds"], settings["memory_mib"])


KINDS: dict[str, tuple[Callable[[Settings, Knowledge | None, Path | None], Made], dict[str, Any]]] = {
    "calculator": (_calculator, {}),
    "clock": (_clock, {}),
    "lookup": (_lookup, {}),
    "search": (_search, {"limit": 3, "within": None, "nothing": "nobody"}),
    "python": (_python, {"cpu_seconds": 2, "memory_mib": 256}),
}
"""Kind → (what makes it, its settings with their defaults)."""

_WORLD_SCHEMAS = {
    "calculator": object_schema(expression={"type": "string", "maxLength": MAX_CHARACTERS}),
    "lookup": object_schema(person={"type": "string", "maxLength": 100}, what={"type": "string", "maxLength": 40}),
    "search": object_schema(what={"type": "string", "maxLength": 40}, value={"type": "string", "maxLength": 100}),
    "clock": object_schema(
        hour={"type": "integer", "minimum": 0, "maximum": 23},
        later={"type": "integer", "minimum": 0, "maximum": 10_000},
    ),
}
_WORLD_SETTINGS = {"search": {"within": 40}}
"""The world's searches are about its first forty people."""


def make_tool(row: Mapping[str, Any], knowledge: Knowledge | None, folder: Path | None = None) -> Tool:
    """The tool of a row of a manifest.

    Args:
        row: ``name``, ``description``, ``inputSchema``, ``kind`` and ``settings``.
        knowledge: the index of the agent.
        folder: text files for retrieval.

    Raises:
        ConfigError: an unknown kind or setting, or a schema whose arguments are not those of its kind.
    """
    name, kind, schema = row["name"], row["kind"], row["inputSchema"]
    if kind not in KINDS:
        raise ConfigError(f"tool {name}: unknown kind {kind!r}; this version has {', '.join(KINDS)}")
    make, defaults = KINDS[kind]
    if unknown := sorted(set(row["settings"]) - set(defaults)):
        raise ConfigError(
            f"tool {name}: kind {kind} has no setting {unknown[0]!r}; it has {', '.join(defaults) or 'none'}"
        )
    _check_arguments(name, kind, schema)
    settings = defaults | row["settings"]
    for key, value in settings.items():
        default = defaults[key]
        if default is not None and type(value) is not type(default):
            raise ConfigError(f"tool {name}: setting {key} must be like {default!r}, not {value!r}")
    run, disabled, notes = make(settings, knowledge, folder)
    return Tool(name, row["description"], schema, kind, row["settings"], run, disabled, notes)


def world_toolbox(knowledge: Knowledge, audit: Audit | None = None) -> Toolbox:
    """The four tools of the synthetic world over an index of its people."""
    tools = []
    for name, told in TOOLS.items():
        row = {
            "name": name, "description": told.split(") ", 1)[1], "inputSchema": _WORLD_SCHEMAS[name],
            "kind": name, "settings": _WORLD_SETTINGS.get(name, {}),
        }  # fmt: skip
        tools.append(make_tool(row, knowledge))
    return Toolbox(tools, knowledge, audit)


_ARGUMENTS = {
    "calculator": {"expression": "string"},
    "clock": {"hour": "integer", "later": "integer"},
    "python": {"code": "string"},
    "lookup": ("string", "string"),
    "search": ("string", "string"),
}
"""What a kind reads: named arguments, or so many in this order under any names."""


def _check_arguments(name: str, kind: str, schema: Mapping[str, Any]) -> None:
    wanted = _ARGUMENTS[kind]
    properties = schema.get("properties", {})
    given = {key: each.get("type") for key, each in properties.items() if isinstance(each, Mapping)}
    fits = given == wanted if isinstance(wanted, dict) else tuple(given.values()) == wanted
    if not fits or set(schema.get("required", ())) != set(properties):
        raise ConfigError(f"tool {name}: kind {kind} needs the arguments {wanted}, all required, not {given}")
