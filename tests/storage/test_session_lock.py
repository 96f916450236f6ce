from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agent_forge.errors import SessionBusy
from agent_forge.storage.session_lock import SessionLock, is_live, read_holder

HOLD = """
import sys, time
from pathlib import Path
from agent_forge.storage.session_lock import SessionLock
with SessionLock(Path(sys.argv[1])) as lock:
    print("held", flush=True)
    time.sleep(60)
"""
RACE = """
import sys, time
from pathlib import Path
from agent_forge.errors import SessionBusy
from agent_forge.storage.session_lock import SessionLock
while time.time() < float(sys.argv[2]):
    pass
try:
    lock = SessionLock(Path(sys.argv[1])).acquire()
    print("won", flush=True)
    sys.stdin.read()
    lock.release()
except SessionBusy:
    print("busy", flush=True)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    process = start(HOLD, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(SessionBusy, match=str(process.pid)):
        SessionLock(tmp_path).acquire()
    assert is_live(tmp_path)
    end(process)
    assert not is_live(tmp_path)
    with SessionLock(tmp_path) as lock:
        assert lock.took_over is not None
        assert "is gone" in lock.took_over
        assert lock.held()


def test_of_racing_processes_exactly_one_wins(tmp_path: Path) -> None:
    for attempt in range(2):
        moment = time.time() + 1.0
        processes = [start(RACE, tmp_path / str(attempt), moment) for _ in range(4)]
        answers = [process.stdout.readline() for process in processes if process.stdout is not None]
        for process in processes:
            process.communicate("")
        assert sorted(answers) == ["busy\n"] * 3 + ["won\n"]


def test_a_second_lock_in_the_same_process_is_refused_and_release_frees_it(tmp_path: Path) -> None:
    with SessionLock(tmp_path) as lock:
        assert lock.took_over is None
        with pytest.raises(SessionBusy):
            SessionLock(tmp_path).acquire()
    assert read_holder(tmp_path) is None
    with SessionLock(tmp_path) as lock:
        assert lock.took_over is None


def test_a_heart_that_stands_still_loses_the_lock_and_its_owner_learns_it(tmp_path: Path) -> None:
    frozen = SessionLock(tmp_path, beat_seconds=1000).acquire()
    content = json.loads((tmp_path / "lock.json").read_text())
    # The owner is another live process that has been silent: pid 1 stands in, with its real start.
    stat = Path("/proc/1/stat").read_text().rpartition(")")[2].split()
    content |= {"pid": 1, "started": stat[19], "beat": content["beat"] - 130}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with SessionLock(tmp_path) as taker:
        assert taker.took_over is not None
        assert "no sign of life for 13" in taker.took_over
    with pytest.raises(SessionBusy, match="taken over"):
        frozen.check()
    frozen.release()


def test_a_lock_from_before_the_last_boot_is_stale(tmp_path: Path) -> None:
    lock = SessionLock(tmp_path).acquire()
    content = json.loads((tmp_path / "lock.json").read_text())
    lock.release()
    content |= {"boot": "another", "place": "another"}
    (tmp_path / "lock.json").write_text(json.dumps(content))
    with SessionLock(tmp_path) as taker:
        assert taker.took_over is not None
        assert "before the last boot" in taker.took_over


def test_the_heart_beats(tmp_path: Path) -> None:
    with SessionLock(tmp_path, beat_seconds=0.02):
        first = read_holder(tmp_path)
        for _ in range(200):
            time.sleep(0.02)
            later = read_holder(tmp_path)
            if first and later and later.beat > first.beat:
                break
        assert first is not None
        assert later is not None
        assert later.beat > first.beat


def test_setting_the_clock_does_not_make_a_lock_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SessionLock(tmp_path):
        monkeypatch.setattr(time, "time", lambda: 4e9)
        os.utime(tmp_path / "lock.json", (1.0, 1.0))
        assert is_live(tmp_path)
        with pytest.raises(SessionBusy):
            SessionLock(tmp_path).acquire()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff\xfe"])
def test_an_unreadable_lock_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_bytes(content)
    assert read_holder(tmp_path) is None
    with SessionLock(tmp_path) as lock:
        assert lock.held()
