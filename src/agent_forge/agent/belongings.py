"""Small files beside the weights that make a model an agent: its tools, what they look up, its experts, its
design with its routes.

They travel with it: from phase to phase, into the `.forge` file and out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

MANIFEST = "tools.json"
KNOWLEDGE = "knowledge.json"
EXPERTS = "experts.safetensors"
DESIGN = "agent.json"
ROUTES = "routes.safetensors"
TOOL_FILES = (MANIFEST, KNOWLEDGE)
"""What stays true when the weights change; experts, design and routes belong to one set of weights."""
BELONGINGS = (*TOOL_FILES, EXPERTS, DESIGN, ROUTES)


def read_belongings(checkpoint: Path, names: Sequence[str] = BELONGINGS) -> dict[str, bytes]:
    """Those of ``names`` that a checkpoint folder has: name → bytes; empty for a bare model."""
    paths = [Path(checkpoint) / name for name in names]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def carry_tools(source: Path, target: Path) -> None:
    """Copies the tools of one checkpoint folder to another whose weights differ."""
    for name, content in read_belongings(source, TOOL_FILES).items():
        (Path(target) / name).write_bytes(content)
