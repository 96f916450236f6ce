from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable

import torch

from agent_forge.contract import Artifact
from agent_forge.storage.checkpoints import save_state
from agent_forge.storage.home import Home
from agent_forge.storage.verify import verify


def committed(home: Home, *artifacts: Artifact) -> None:
    home.registry.create_session("s", {})
    phase_run = home.registry.begin_phase_run("s", "cognate", "f")
    home.registry.commit_phase_run(phase_run, {"models": list(artifacts)})


def test_a_whole_home_is_well(home: Home, store: Callable[..., Artifact]) -> None:
    committed(home, store(weights=b"1", config=b"c"), store(weights=b"22", config=b"c"))
    report = verify(home)
    assert report.ok
    assert (report.files, report.size_bytes, report.artifacts) == (3, 4, 2)
    assert report.sqlite.count(".") == 2


def test_each_damage_is_named_with_what_it_hits(home: Home, store: Callable[..., Artifact]) -> None:
    altered, lost, orphan = store(weights=b"altered"), store(weights=b"lost"), store(weights=b"orphan")
    committed(home, altered, lost)
    location = home.blobs.location(altered.files["weights"][0])
    location.chmod(0o644)
    location.write_bytes(b"ALTERED")
    home.blobs.location(lost.files["weights"][0]).unlink()
    state = save_state(home.scratch_folder("s", "bitnet", "f"), {"w": torch.ones(3)}, 1, reserve_bytes=0)
    state.with_suffix(".safetensors").write_bytes(b"short")
    half = home.path / "blobs" / ".tmp-1-0-elsewhere-0"
    half.write_bytes(b"")
    os.utime(half, (1, 1))
    report = verify(home)
    assert not report.ok
    assert report.corrupt == {altered.files["weights"][0]: [altered.digest]}
    assert list(report.missing) == [lost.digest]
    assert report.orphan_blobs == [orphan.files["weights"][0]]
    assert report.damaged_states == [str(state)]
    assert report.temporary == [str(half)]
    assert len(report.problems) == 3


def test_a_row_that_names_nothing_is_found(home: Home, store: Callable[..., Artifact]) -> None:
    committed(home, store(weights=b"1"))
    connection = sqlite3.connect(home.path / "registry.db")
    connection.execute("DELETE FROM artifacts")
    connection.commit()
    connection.close()
    report = verify(home)
    assert "handoffs" in report.integrity
    assert not report.ok


def test_a_damaged_database_is_found(home: Home, store: Callable[..., Artifact]) -> None:
    committed(home, *(store(weights=str(number).encode()) for number in range(50)))
    home.registry.database.checkpoint()
    home.close()
    path = home.path / "registry.db"
    data = bytearray(path.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    path.write_bytes(data)
    report = verify(home)
    assert report.integrity != "ok"
    assert not report.ok
