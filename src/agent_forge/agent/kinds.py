"""The kinds of tools in one table: what a manifest may name, the settings that each takes, the tools of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from agent_forge.agent.calculator import MAX_CHARACTERS, calculate
from agent_forge.agent.clock import hours_later
from agent_forge.agent.embeddings import Embed
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.python_tool import python_tool
from agent_forge.agent.retrieval import MODES, Retriever
from agent_forge.agent.schema import ToolError, object_schema
from agent_forge.agent.toolbox import Audit, Run, Tool, Toolbox
from agent_forge.data.synthetic_world.tools import TOOLS
from agent_forge.errors import ConfigError

Settings: TypeAlias = Mapping[str, Any]
Made: TypeAlias = tuple[Run, str, Mapping[str, Any]]
"""What does the work, why it cannot be used here (or nothing), notes for the audit."""
_NO_INDEX = "this tool has no index to read"
_NO_FOLDER = "this tool was given no folder of texts"


@dataclass(frozen=True)
class Resources:
    """What tools may be given from outside.

    Attributes:
        knowledge: the index of the agent.
        folder: text files, for retrieval.
        embed: texts → vectors, for retrieval by them.
    """

    knowledge: Knowledge | None = None
    folder: Path | None = None
    embed: Embed | None = None


def _calculator(settings: Settings, given: Resources) -> Made:
    return lambda arguments: calculate(arguments["expression"]), "", {}


def _clock(settings: Settings, given: Resources) -> Made:
    return lambda arguments: hours_later(arguments["hour"], arguments["later"]), "", {}


def _lookup(settings: Settings, given: Resources) -> Made:
    if given.knowledge is None:
        return _cannot(_NO_INDEX)
    index = given.knowledge

    def run(arguments: Mapping[str, Any]) -> str:
        attribute, subject = arguments.values()
        return index.lookup(subject, attribute)

    return run, "", {}


def _search(settings: Settings, given: Resources) -> Made:
    if given.knowledge is None:
        return _cannot(_NO_INDEX)
    index = given.knowledge

    def run(arguments: Mapping[str, Any]) -> str:
        attribute, value = arguments.values()
        found = index.search(attribute, value, limit=settings["limit"], within=settings["within"])
        return ", ".join(found) or str(settings["nothing"])

    return run, "", {}


def _retrieve(settings: Settings, given: Resources) -> Made:
    """The folder is read and indexed here, once."""
    mode = settings["mode"]
    if mode not in MODES:
        raise ConfigError(f"retrieval has the modes {', '.join(MODES)}, not {mode!r}")
    if given.folder is None:
        return _cannot(_NO_FOLDER)
    if mode == "embedding" and given.embed is None:
        return _cannot("this tool needs the model to compare texts with")
    retriever = Retriever.of_folder(given.folder, mode, given.embed, settings["max_words"])

    def run(arguments: Mapping[str, Any]) -> str:
        (question,) = arguments.values()
        found = retriever.find(question, settings["results"])
        if not found:
            raise ToolError("no text is about that")
        return "\n".join(passage.text for passage, _ in found)

    return run, "", {"retrieval": mode}


def _python(settings: Settings, given: Resources) -> Made:
    return python_tool(settings["cpu_seconds"], settings["memory_mib"])


def _cannot(why: str) -> Made:
    def run(arguments: Mapping[str, Any]) -> str:
        raise ToolError(why)

    return run, why, {}


KINDS: dict[str, tuple[Callable[[Settings, Resources], Made], dict[str, Any]]] = {
    "calculator": (_calculator, {}),
    "clock": (_clock, {}),
    "lookup": (_lookup, {}),
    "search": (_search, {"limit": 3, "within": None, "nothing": "nobody"}),
    "python": (_python, {"cpu_seconds": 2, "memory_mib": 256}),
    "retrieve": (_retrieve, {"mode": "bm25", "results": 1, "max_words": 80}),
}
"""Kind → (what makes it, its settings with their defaults)."""

_SCHEMAS = {
    "calculator": object_schema(expression={"type": "string", "maxLength": MAX_CHARACTERS}),
    "lookup": object_schema(what={"type": "string", "maxLength": 40}, person={"type": "string", "maxLength": 100}),
    "search": object_schema(what={"type": "string", "maxLength": 40}, value={"type": "string", "maxLength": 100}),
    "clock": object_schema(
        hour={"type": "integer", "minimum": 0, "maximum": 23},
        later={"type": "integer", "minimum": 0, "maximum": 10_000},
    ),
    "python": object_schema(code={"type": "string", "maxLength": 4000}),
    "retrieve": object_schema(question={"type": "string", "maxLength": 400}),
}
_DESCRIPTIONS = {name: told.split(") ", 1)[1] for name, told in TOOLS.items()} | {
    "python": "runs a program and gives what it prints",
    "retrieve": "gives a passage of the user's texts that is about the question",
}
_WORLD_SETTINGS = {"search": {"within": 40}}
"""The world's searches are about its first forty people."""


def tool_row(kind: str, **settings: Any) -> dict[str, Any]:
    """The row of a manifest for a tool named after its kind, with the usual description and arguments."""
    return {
        "name": kind, "description": _DESCRIPTIONS[kind], "inputSchema": _SCHEMAS[kind], "kind": kind,
        "settings": settings,
    }  # fmt: skip


def make_tool(row: Mapping[str, Any], given: Resources | None = None) -> Tool:
    """The tool of a row of a manifest.

    Args:
        row: ``name``, ``description``, ``inputSchema``, ``kind`` and ``settings``.
        given: what it may use.

    Raises:
        ConfigError: an unknown kind or setting, or a schema whose arguments are not those of its kind.
        DataError: retrieval was given a folder that cannot be used.
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
    run, disabled, notes = make(settings, given or Resources())
    return Tool(name, row["description"], schema, kind, row["settings"], run, disabled, notes)


def world_toolbox(knowledge: Knowledge, audit: Audit | None = None) -> Toolbox:
    """The four tools of the synthetic world over an index of its people."""
    given = Resources(knowledge)
    tools = [make_tool(tool_row(name, **_WORLD_SETTINGS.get(name, {})), given) for name in TOOLS]
    return Toolbox(tools, knowledge, audit)


_ARGUMENTS = {
    "calculator": {"expression": "string"},
    "clock": {"hour": "integer", "later": "integer"},
    "python": {"code": "string"},
    "retrieve": ("string",),
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
