"""Small files that travel with an agent inside its `.forge` file: see `agent_forge.agent.belongings`.

Each is a section of its own (``extra/file/NAME``, zstd), so it has a digest as every section has and counts in the
size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent_forge.agent.belongings import BELONGINGS, EXPERTS, read_belongings
from agent_forge.errors import ArtifactCorrupt
from agent_forge.phases.compression.forge_file import read_manifest, read_section
from agent_forge.phases.compression.plain import compress_bytes, decompress_bytes

_PREFIX = "file/"
_LIMIT = 1 << 28


def attached(checkpoint: Path) -> dict[str, bytes]:
    """What of a checkpoint folder goes into the file: section (without ``extra/``) → bytes; empty for a bare model."""
    return {_PREFIX + name: compress_bytes(content) for name, content in read_belongings(checkpoint).items()}


def with_experts(sections: Mapping[str, bytes]) -> bool:
    """Whether expert vectors are among what `attached` gives."""
    return _PREFIX + EXPERTS in sections


def attachments(path: Path) -> dict[str, bytes]:
    """What a `.forge` file carries besides the model: name → bytes.

    Raises:
        ArtifactMissing, ArtifactCorrupt, HandoffError: as `forge_file.read_manifest`.
    """
    present = {str(section[0]) for section in read_manifest(path)["sections"]}
    found = {}
    for name in BELONGINGS:
        section = f"extra/{_PREFIX}{name}"
        if section in present:
            packed = read_section(path, section)
            try:
                found[name] = decompress_bytes(packed, limit=_LIMIT)
            except ValueError as error:
                raise ArtifactCorrupt(f"{path}: section {section} cannot be read: {error}") from error
    return found
