"""Calls of tools as events of the registry, for agents that came from a session or were named by their digest.

A row says which model and tool, with what (as a digest: what users say stays theirs), whether it went well, how many
bytes came back, how long it took, and in which sandbox. Nothing is written for a model that lies outside a home.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent_forge.agent.toolbox import Audit, Result
from agent_forge.contract import canonical_json
from agent_forge.pipeline.session import exists
from agent_forge.storage.home import Home

KIND = "tool_call"


def audit_for(reference: str, home_path: Path, path: Path) -> Audit | None:
    """What writes the events of an agent, or None where there is no home or ``reference`` is a path.

    Args:
        reference: as the user named the agent.
        home_path: where its session may be.
        path: the view of its artifact, as `resolve_model` gave it; the digest is its name.
    """
    if Path(reference).exists() or not (home_path / "registry.db").is_file():
        return None
    name = reference.partition("/")[0]
    digest = (path if path.is_dir() else path.parent).name

    def audit(tool: str, arguments: Mapping[str, Any] | str, result: Result) -> None:
        with Home.open(home_path, create=False) as home:
            session = name if exists(home, name) else None
            home.registry.add_event(session, KIND, _row(digest, tool, arguments, result))

    return audit


def _row(digest: str, tool: str, arguments: Mapping[str, Any] | str, result: Result) -> dict[str, Any]:
    told = arguments if isinstance(arguments, str) else canonical_json(dict(arguments))
    return {
        "model": digest,
        "tool": tool,
        "arguments_sha256": hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest(),
        "ok": result.ok,
        "result_bytes": len(result.text.encode("utf-8", "replace")),
        "milliseconds": round(1000 * result.seconds, 3),
        **result.notes,
    }
