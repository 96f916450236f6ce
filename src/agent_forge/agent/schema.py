"""The part of JSON Schema (draft 2020-12) that tools are described with, and the check of arguments against it.

A tool takes an object of strings, integers, numbers and booleans. A schema with any other keyword is refused when the
toolbox is made: what is not checked is not promised. Every fault of the arguments is one sentence for the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent_forge.errors import ConfigError

_OF_OBJECT = {"type", "properties", "required", "additionalProperties"}
_OF_PROPERTY = {"type", "description", "enum", "minimum", "maximum", "minLength", "maxLength"}
_TYPES = ("string", "integer", "number", "boolean")
_INTEGER = re.compile(r"[+-]?\d{1,30}")
_NUMBER = re.compile(r"[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,3})?")


class ToolError(Exception):
    """A call that could not be done; the sentence goes back to the model."""


def object_schema(**properties: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object all of whose properties are required, in this order."""
    return {
        "type": "object",
        "properties": {name: dict(each) for name, each in properties.items()},
        "required": list(properties),
        "additionalProperties": False,
    }


def check_schema(tool: str, schema: Mapping[str, Any]) -> None:
    """Refuses what `validated` could not check.

    Raises:
        ConfigError: another type than object, an unknown keyword, or a property of an unknown type.
    """
    properties = schema.get("properties")
    if schema.get("type") != "object" or not isinstance(properties, Mapping):
        raise ConfigError(f"tool {tool}: its schema must be an object with properties, not {schema!r:.200}")
    if unknown := sorted(set(schema) - _OF_OBJECT):
        raise ConfigError(f"tool {tool}: its schema uses {unknown}; known are {sorted(_OF_OBJECT)}")
    if missing := sorted(set(schema.get("required", ())) - set(properties)):
        raise ConfigError(f"tool {tool}: required are {missing}, which are not among its properties")
    for name, each in properties.items():
        if not isinstance(each, Mapping) or each.get("type") not in _TYPES:
            raise ConfigError(f"tool {tool}: property {name} must have one of the types {', '.join(_TYPES)}")
        if unknown := sorted(set(each) - _OF_PROPERTY):
            raise ConfigError(f"tool {tool}: property {name} uses {unknown}; known are {sorted(_OF_PROPERTY)}")


def from_text(schema: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Arguments as the model writes them, split at the first commas and read by the types of the schema.

    Raises:
        ToolError: too few arguments, some where there are none, or text that is not of its type.
    """
    names = list(schema["properties"])
    if not names:
        if text.strip():
            raise ToolError("this tool takes no arguments")
        return {}
    parts = [part.strip() for part in text.split(",", len(names) - 1)]
    if parts == [""]:
        parts = []
    given = {name: _read(name, schema["properties"][name], part) for name, part in zip(names, parts, strict=False)}
    return validated(schema, given)


def validated(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the order of the schema, checked.

    Raises:
        ToolError: the first thing that is wrong with them.
    """
    properties = schema["properties"]
    if unknown := sorted(set(arguments) - set(properties)):
        raise ToolError(f"unknown argument {unknown[0]}; expected {', '.join(properties) or 'none'}")
    if missing := [name for name in schema.get("required", ()) if name not in arguments]:
        raise ToolError(f"argument {missing[0]} is missing; expected {', '.join(properties)}")
    for name, value in arguments.items():
        _check(name, properties[name], value)
    return {name: arguments[name] for name in properties if name in arguments}


def _read(name: str, schema: Mapping[str, Any], text: str) -> Any:
    kind = schema["type"]
    if kind == "string":
        return text
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "integer" and _INTEGER.fullmatch(text):
        return int(text)
    if kind == "number" and _NUMBER.fullmatch(text):
        return int(text) if _INTEGER.fullmatch(text) else float(text)
    raise ToolError(f"{name} must be {_article(kind)}, not {_shown(text)}")


def _check(name: str, schema: Mapping[str, Any], value: Any) -> None:
    kind = schema["type"]
    fits = {
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "number": isinstance(value, int | float) and not isinstance(value, bool) and value == value,
    }[kind]
    if not fits:
        raise ToolError(f"{name} must be {_article(kind)}, not {_shown(value)}")
    if "enum" in schema and value not in schema["enum"]:
        raise ToolError(f"{name} must be one of {', '.join(map(str, schema['enum']))}, not {_shown(value)}")
    if "minimum" in schema and value < schema["minimum"]:
        raise ToolError(f"{name} must be at least {schema['minimum']}, not {_shown(value)}")
    if "maximum" in schema and value > schema["maximum"]:
        raise ToolError(f"{name} must be at most {schema['maximum']}, not {_shown(value)}")
    if "minLength" in schema and len(value) < schema["minLength"]:
        raise ToolError(f"{name} must have at least {schema['minLength']} characters")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        raise ToolError(f"{name} has {len(value)} characters, {schema['maxLength']} are allowed")


def _article(kind: str) -> str:
    return f"an {kind}" if kind == "integer" else f"a {kind}"


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:40] + "…"
