from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent_forge.contract import Artifact
from agent_forge.errors import ConfigError, HomeReadOnly, HomeTooNew
from agent_forge.storage import durable
from agent_forge.storage.home import Home
from agent_forge.storage.processes import ProcessMark
from agent_forge.storage.retention import delete_session


def test_a_home_is_made_opened_again_and_refused_when_it_may_not_be_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no home"):
        Home.open(tmp_path / "home", create=False)
    assert not (tmp_path / "home").exists()
    with Home.open(tmp_path / "home") as home:
        home.registry.create_session("s", {})
    with Home.open(tmp_path / "home", create=False) as home:
        assert [row.name for row in home.registry.sessions()] == ["s"]


def test_an_unused_home_goes_again_unless_somebody_else_is_there_or_something_was_stored(tmp_path: Path) -> None:
    place = tmp_path / "home"
    Home.open(place).close_unused()
    assert not place.exists()
    first, second = Home.open(place), Home.open(place)
    first.close_unused()
    second.registry.create_session("s", {})
    second.close_unused()
    with Home.open(place, create=False) as home:
        assert [row.name for row in home.registry.sessions()] == ["s"]
    third = Home.open(tmp_path / "other")
    third.registry.create_session("s", {})
    third.close_unused()
    assert (tmp_path / "other" / "registry.db").is_file()
    Home.open(tmp_path / "was there").close()
    Home.open(tmp_path / "was there").close_unused()
    assert (tmp_path / "was there" / "registry.db").is_file()


def test_opening_a_home_that_is_just_taken_away_makes_it_anew(tmp_path: Path) -> None:
    place = tmp_path / "home"
    for _ in range(6):
        leaving = Home.open(place)
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(Home.open, place)
            leaving.close_unused()
            home = coming.result()
        home.registry.create_session("s", {})
        home.close()
        with Home.open(place, create=False) as again:
            assert [row.name for row in again.registry.sessions()] == ["s"]
            delete_session(again, "s")
        shutil.rmtree(place)


def test_a_home_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    Home.open(tmp_path).close()
    (tmp_path / "VERSION").write_text("99\n")
    orphan = tmp_path / "blobs" / f"{durable.TEMPORARY_PREFIX}1-0-{ProcessMark.mine().place}-0"
    orphan.write_bytes(b"not ours to sweep")
    with pytest.raises(HomeTooNew, match="99"):
        Home.open(tmp_path)
    assert orphan.exists()
    assert (tmp_path / "VERSION").read_text() == "99\n"


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_text("my own program, 3.1")
    with pytest.raises(ConfigError, match="no home of Agent Forge"):
        Home.open(tmp_path)


def test_a_place_that_cannot_be_written_is_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(HomeReadOnly, match="choose another --home") as caught:
        Home.open(tmp_path / "file" / "home")
    assert "\n" not in str(caught.value)
    with pytest.raises(HomeReadOnly):
        Home.open("/proc/agent-forge")


def test_opening_removes_what_dead_processes_left_and_nothing_else(tmp_path: Path) -> None:
    Home.open(tmp_path).close()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    place = ProcessMark.mine().place
    (tmp_path / "blobs" / "ab").mkdir()
    orphans = [
        tmp_path / "blobs" / "ab" / f".tmp-{dead.pid}-1-{place}-0",
        tmp_path / f".tmp-{os.getpid()}-1-{place}-0",  # our pid, but of a process that started at another time
        tmp_path / "scratch" / ".tmp-unreadable",
        tmp_path / "blobs" / "ab" / ".tmp-77-1-elsewhere-0",
    ]
    for path in orphans:
        path.write_bytes(b"half")
        os.utime(path, (1, 1))
    half_view = tmp_path / "views" / f".tmp-{dead.pid}-1-{place}-1"
    half_view.mkdir()
    (half_view / "weights").write_bytes(b"half")
    half_view.chmod(0o555)
    mine = durable.temporary_path(tmp_path / "blobs" / "ab")
    foreign = tmp_path / "blobs" / "ab" / ".tmp-78-1-elsewhere-0"
    for path in (mine, foreign):
        path.write_bytes(b"being written")
    with Home.open(tmp_path) as home:
        assert sorted(home.swept) == sorted([*orphans, half_view])
    assert mine.exists()
    assert foreign.exists()


def test_phase_folders_link_to_what_each_phase_gave(home: Home, store: Callable[..., Artifact]) -> None:
    one, two = store(weights=b"1"), store(weights=b"2")
    folder = home.link_outputs("s", 1, "cognate", {"trunk": [one], "specialists": [one, two]})
    assert folder == home.path / "sessions" / "s" / "phase1_cognate"
    shown = {path.name: (path / "weights").read_bytes() for path in folder.iterdir()}
    assert shown == {"trunk": b"1", "specialists_1": b"1", "specialists_2": b"2"}
    home.link_outputs("s", 1, "cognate", {"trunk": [two]})
    assert (folder / "trunk" / "weights").read_bytes() == b"2"


def test_scratch_is_the_same_for_every_attempt_and_can_be_cleared(home: Home) -> None:
    folder = home.scratch_folder("s", "cognate", "f" * 64)
    (folder / "state").write_text("x")
    assert home.scratch_folder("s", "cognate", "f" * 64) == folder
    other = home.scratch_folder("s", "evomerge", "f" * 64)
    home.clear_scratch("s", "cognate")
    assert not folder.exists()
    assert other.exists()
    home.clear_scratch("s")
    assert not other.exists()


def test_storage_imports_no_torch() -> None:
    rooms = "storage.home, agent_forge.storage.retention, agent_forge.storage.verify, agent_forge.storage.checkpoints"
    code = f"import sys, agent_forge.{rooms}; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env, check=False).returncode == 0
