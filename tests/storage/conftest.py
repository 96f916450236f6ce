from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent_forge.contract import Artifact
from agent_forge.storage.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home.open(tmp_path / "home", reserve_bytes=0) as opened:
        yield opened


@pytest.fixture
def store(home: Home, tmp_path: Path) -> Callable[..., Artifact]:
    """Stores a small folder of the given files as an artifact of ``home``."""

    def stored(kind: str = "checkpoint", **files: bytes) -> Artifact:
        folder = tmp_path / "incoming"
        folder.mkdir(exist_ok=True)
        for name, data in (files or {"weights": b"w"}).items():
            (folder / name).write_bytes(data)
        return home.blobs.put_folder(kind, folder, {"made_by": "a test"}, how="move")

    return stored
