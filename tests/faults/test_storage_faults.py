"""Failures of disk, processes and clock, injected for real into the storage room."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from agent_forge.contract import Artifact
from agent_forge.errors import ArtifactCorrupt, DiskFull, HomeReadOnly, HomeTooNew, SessionBusy
from agent_forge.storage import blobs as blobs_module
from agent_forge.storage import durable
from agent_forge.storage.blobs import Blobs
from agent_forge.storage.checkpoints import load_newest, save_state, states
from agent_forge.storage.home import Home
from agent_forge.storage.retention import apply_retention, collect_blobs, plan_retention
from agent_forge.storage.session_lock import SessionLock, is_live
from agent_forge.storage.verify import verify
from agent_forge.tracking.curves import read_curves
from agent_forge.tracking.local_store import LocalStore

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}

if str(HERE) not in sys.path:
    sys.path.append(str(HERE))
from disk_faults import FailingDisk, RecordingDisk, crash_states  # noqa: E402


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home.open(tmp_path / "home", reserve_bytes=0) as opened:
        yield opened


def folder_of(root: Path, **files: bytes) -> Path:
    folder = root / "incoming"
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def committed(home: Home, session: str, root: Path, **files: bytes) -> Artifact:
    artifact = home.blobs.put_folder("checkpoint", folder_of(root, **files), {}, how="move")
    home.registry.create_session(session, {})
    phase_run = home.registry.begin_phase_run(session, "cognate", artifact.digest)
    home.registry.commit_phase_run(phase_run, {"model": [artifact]})
    return artifact


def with_disk(monkeypatch: pytest.MonkeyPatch, disk: Any) -> None:
    for module in (durable, blobs_module):
        monkeypatch.setattr(module, "os", disk)


# Killed at any instant


def test_two_hundred_kills_lose_nothing_that_was_acknowledged() -> None:
    # In memory where there is such a place: SIGKILL does not lose what the kernel holds, and commits are many more.
    place = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=place if place.is_dir() else None))
    try:
        command = [sys.executable, str(HERE / "kill_writers.py"), str(root / "home"), "200"]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
    finally:
        shutil.rmtree(root)
    assert figures["acknowledged"] >= 100
    assert figures["artifacts"] >= figures["acknowledged"]
    assert (figures["lost"], figures["missing"], figures["corrupt"]) == (0, 0, 0)
    assert (figures["integrity"], figures["temporary"]) == ("ok", 0)


@pytest.mark.parametrize("how", ["copy", "move"])
def test_no_power_cut_leaves_a_torn_blob_or_loses_an_acknowledged_one(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, data = tmp_path / "weights", b"0123456789" * 10
    source.write_bytes(data)
    blobs = Blobs(tmp_path / "blobs", tmp_path / "views", reserve_bytes=0)
    blobs.folder.mkdir()
    disk = RecordingDisk()
    with_disk(monkeypatch, disk)
    sha256, _ = blobs.put_file(source, how)  # type: ignore[arg-type]
    final, seen = blobs.location(sha256), 0
    for end, files in crash_states(disk.trace, {source: data}):
        seen += 1
        assert files.get(final, data) == data, f"torn after call {end}"
        if end == len(disk.trace):
            assert final in files, "acknowledged and lost"
    assert seen > 10
    assert any(final not in files for _, files in crash_states(disk.trace, {source: data}))


def test_the_replay_does_find_a_protocol_that_forgets_to_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without the fsync of the file, or of the folder, the check above must fail."""
    source = tmp_path / "weights"
    source.write_bytes(b"0123456789")
    blobs = Blobs(tmp_path / "blobs", tmp_path / "views", reserve_bytes=0)
    blobs.folder.mkdir()
    disk = RecordingDisk()
    with_disk(monkeypatch, disk)
    sha256, _ = blobs.put_file(source)
    final, shard = blobs.location(sha256), blobs.location(sha256).parent
    no_file_sync = [call for call in disk.trace if not (call[0] == "fsync" and ".tmp-" in call[1].name)]
    no_folder_sync = [call for call in disk.trace if call[:2] != ("fsync", shard)]
    assert any(files.get(final) == b"" for _, files in crash_states(no_file_sync, {}))
    assert any(final not in files for end, files in crash_states(no_folder_sync, {}) if end == len(no_folder_sync))


def test_no_power_cut_while_a_state_is_saved_loses_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "states"
    save_state(folder, {"step": 1, "w": torch.ones(5)}, 1, reserve_bytes=0)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    disk = RecordingDisk()
    with_disk(monkeypatch, disk)
    save_state(folder, {"step": 2, "w": torch.zeros(5)}, 2, reserve_bytes=0)
    monkeypatch.undo()
    found = set()
    for number, (end, files) in enumerate(crash_states(disk.trace, before)):
        replica = tmp_path / str(number)
        replica.mkdir()
        for path, data in files.items():
            (replica / path.name).write_bytes(data)
        loaded = load_newest(replica)
        assert loaded is not None
        assert loaded[0]["step"] == loaded[1]
        found.add(loaded[1])
        if end == len(disk.trace):
            assert loaded[1] == 2
        shutil.rmtree(replica)
    assert found == {1, 2}


# Disk full


def test_a_disk_that_fails_at_any_call_gives_one_error_and_loses_nothing(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    safe = committed(home, "before", tmp_path, weights=b"safe")
    k, sentences = 0, set()
    while True:
        k += 1
        # New bytes each time: a blob that an earlier round managed to store would not be written again.
        content = {"config": b"{%d}" % k, "weights": b"%d" % k * 1000}
        source = folder_of(tmp_path, **content)
        with monkeypatch.context() as patched:
            with_disk(patched, FailingDisk(k))
            try:
                artifact = home.blobs.put_folder("checkpoint", source, {})
            except DiskFull as error:
                sentences.add("resume" in str(error))
            else:
                break
        report = verify(home)
        assert report.ok, f"call {k}: {report.problems}"
        assert home.blobs.view(safe)
        assert list(home.blobs.folder.rglob(".tmp-*")) == [], f"call {k}"
    assert k > 15
    assert sentences == {True}
    assert (home.blobs.view(artifact) / "weights").read_bytes() == content["weights"]


def test_a_disk_that_fails_at_any_call_keeps_the_newest_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, {"step": 0}, 0, reserve_bytes=0)
    step = k = 0
    while True:
        k += 1
        disk = FailingDisk(k, errno.EDQUOT)
        with monkeypatch.context() as patched:
            with_disk(patched, disk)
            try:
                save_state(tmp_path, {"step": 1, "w": torch.ones(100)}, 1, reserve_bytes=0)
            except DiskFull:
                loaded = load_newest(tmp_path)
                assert loaded is not None
                assert loaded[0]["step"] in (step, 1)
                step = loaded[1]
            else:
                break
    assert k > 6
    assert list(tmp_path.glob(".tmp-*")) == []


@contextmanager
def full_disk(root: Path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A folder with ways to fill its disk and to free it again: a small real one where we may mount, else a limit on
    the size of files."""
    disk = root / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "forge-test", str(disk)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True, check=False).returncode == 0:

        def fill() -> None:
            with (disk / "filler").open("wb", buffering=0) as stream:
                try:
                    while True:
                        stream.write(b"x" * 4096)
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise

        try:
            yield disk, fill, (disk / "filler").unlink
        finally:
            subprocess.run(["umount", "--lazy", str(disk)], check=True)
    else:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))  # noqa: E731
        free = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))  # noqa: E731
        try:
            yield disk, limit, free
        finally:
            free()


def test_a_full_disk_is_refused_and_resuming_works_once_there_is_room(tmp_path: Path) -> None:
    with full_disk(tmp_path) as (disk, fill, free), Home.open(disk / "home", reserve_bytes=0) as home:
        safe = committed(home, "before", tmp_path, weights=b"safe" * 1000)
        artifact = home.blobs.put_folder("checkpoint", folder_of(tmp_path, weights=b"w" * 9000), {})
        phase_run = home.registry.begin_phase_run("before", "evomerge", "f")
        store = LocalStore(disk / "metrics.db")
        big = {"notes": "x" * 100_000}
        fill()
        with pytest.raises(DiskFull):
            home.blobs.put_folder("checkpoint", folder_of(tmp_path, weights=b"v" * 9000), {})
        with pytest.raises(DiskFull):
            home.registry.commit_phase_run(phase_run, {"model": [artifact]}, attachments=big)
        with pytest.raises(DiskFull):
            save_state(disk / "states", {"w": torch.zeros(9000)}, 1, reserve_bytes=0)
        for step in range(3000):
            store.log(step, {"x": float(step)})
        deadline = time.monotonic() + 20
        while store.write_errors == 0 and time.monotonic() < deadline:
            store.log(10_000, {"x": 0.0})
            time.sleep(0.05)
        assert store.write_errors > 0
        assert verify(home).ok
        assert home.registry.phase_run(phase_run).status == "running"
        home.blobs.view(safe)
        free()
        home.registry.commit_phase_run(phase_run, {"model": [artifact]}, attachments=big)
        save_state(disk / "states", {"w": torch.zeros(9000)}, 1, reserve_bytes=0)
        store.log(20_000, {"x": 1.0})
        store.close()
        assert read_curves(disk / "metrics.db")["x"].steps[-1] == 20_000
        assert verify(home).ok
        assert home.registry.phase_run(phase_run).outputs == {"model": (artifact,)}


def test_a_save_is_refused_before_its_first_byte_when_the_reserve_would_go(home: Home, tmp_path: Path) -> None:
    committed(home, "before", tmp_path, weights=b"safe")
    home.blobs.reserve_bytes = durable.free_bytes(tmp_path) + 10**12
    with pytest.raises(DiskFull, match="in reserve"):
        home.blobs.put_folder("checkpoint", folder_of(tmp_path, weights=b"new"), {})
    assert len(list(home.blobs.names())) == 1
    assert verify(home).ok


# Altered bytes


def test_every_altered_artifact_is_refused_and_verify_names_it(home: Home, tmp_path: Path) -> None:
    artifact = committed(home, "s", tmp_path, weights=random.Random(0).randbytes(2000), config=b"{}")
    dice = random.Random(1)
    for sha256, size in artifact.files.values():
        location = home.blobs.location(sha256)
        intact = location.read_bytes()
        location.chmod(0o644)
        for damaged in (
            bytes([intact[0] ^ 1 << dice.randrange(8)]) + intact[1:], intact[:-1], b"", b"\0" * size, intact + b"x",
        ):  # fmt: skip
            location.write_bytes(damaged)
            # As another process would see it: nothing was checked before.
            fresh = Blobs(home.blobs.folder, home.blobs.views)
            with pytest.raises(ArtifactCorrupt) as caught:
                fresh.view(artifact)
            assert hashlib.sha256(damaged).hexdigest() in str(caught.value)
            assert verify(home).corrupt == {sha256: [artifact.digest]}
        location.write_bytes(intact)
    assert verify(home).ok


def test_a_corrupt_state_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for step in range(3):
        save_state(tmp_path, {"step": step, "w": torch.full((50,), float(step))}, step, reserve_bytes=0)
    for expected in (1, 0):
        newest = states(tmp_path)[expected + 1].with_suffix(".safetensors")
        data = bytearray(newest.read_bytes())
        data[-1] ^= 1
        newest.write_bytes(data)
        loaded = load_newest(tmp_path)
        assert loaded is not None
        assert (loaded[1], loaded[0]["step"]) == (expected, expected)
        assert torch.equal(loaded[0]["w"], torch.full((50,), float(expected)))


# Contention


READER = """
import json, sys, time
from pathlib import Path
from agent_forge.storage.home import Home
home, count, waits = Home.open(sys.argv[1], create=False), 0, []
print("ready", flush=True)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end:
    began = time.perf_counter()
    sessions = home.registry.sessions()
    rows = home.registry.phase_runs("s")
    home.registry.events("s")
    waits.append(time.perf_counter() - began)
    assert len(rows) >= count
    count = len(rows)
print(json.dumps({"reads": len(waits), "rows": count}), flush=True)
"""


def test_one_writer_and_three_readers_never_meet_a_lock(home: Home, tmp_path: Path) -> None:
    home.registry.create_session("s", {})
    artifact = home.blobs.put_folder("checkpoint", folder_of(tmp_path, weights=b"w"), {})
    command = [sys.executable, "-c", READER, str(home.path), "3"]
    readers = [
        subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for reader in readers:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
    commits = 0
    while any(reader.poll() is None for reader in readers):
        phase_run = home.registry.begin_phase_run("s", "cognate", "f")
        home.registry.commit_phase_run(phase_run, {"model": [artifact]}, {"x": 1.0})
        commits += 1
        if commits % 20 == 0:
            home.registry.database.checkpoint()
    for reader in readers:
        output, errors = reader.communicate()
        assert reader.returncode == 0, errors
        assert json.loads(output)["reads"] > 5
    assert commits > 5
    assert verify(home).ok


def test_a_read_that_turns_into_a_write_does_not_fail_while_another_writes(home: Home) -> None:
    """The measured trap: a deferred transaction would say "locked" at once here."""
    import threading

    home.registry.create_session("s", {})
    errors: list[BaseException] = []

    def attempts(number: int) -> None:
        try:
            for _ in range(20):
                home.registry.fail_phase_run(home.registry.begin_phase_run("s", f"phase{number}", "f"), "failed")
        except BaseException as error:  # noqa: BLE001 - carried to the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=attempts, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    runs = home.registry.phase_runs("s")
    assert sorted(run.attempt for run in runs if run.phase == "phase0") == list(range(1, 21))
    assert len(runs) == 80


def test_two_runs_on_one_session_and_a_stale_lock(home: Home) -> None:
    folder = home.session_folder("s")
    code = (
        "import sys, time; from pathlib import Path; from agent_forge.storage.session_lock import SessionLock\n"
        "SessionLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(SessionBusy, match=f"process {owner.pid}"):
        SessionLock(folder).acquire()
    owner.kill()
    owner.communicate()
    with SessionLock(folder) as lock:
        assert lock.took_over == f"process {owner.pid} is gone"


# Clock, space over time, places


def test_a_clock_that_jumps_changes_no_order_and_loses_no_lock(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    real, jumps = time.time, iter([0, 40 * 365 * 86400, -86400, 3600, -40 * 365 * 86400, 0] * 100)
    monkeypatch.setattr(time, "time", lambda: real() + next(jumps))
    with SessionLock(home.session_folder("s")):
        home.registry.create_session("s", {})
        for number in range(10):
            phase_run = home.registry.begin_phase_run("s", "cognate", "f")
            home.registry.commit_phase_run(phase_run, {}, {"number": float(number)})
            assert is_live(home.session_folder("s"))
        assert plan_retention(home, keep_sessions=1, max_age_days=1).sessions == ()
    runs = home.registry.phase_runs("s")
    assert [(run.attempt, run.measured["number"]) for run in runs] == [(n + 1, float(n)) for n in range(10)]
    newest = home.registry.find_completed("f")
    assert newest is not None
    assert newest.measured["number"] == 9.0
    kinds = [event.kind for event in home.registry.events("s")]
    assert kinds == ["session_created"] + ["phase_started", "phase_finished"] * 10


def test_states_and_sessions_do_not_pile_up(home: Home, tmp_path: Path) -> None:
    for step in range(20):
        save_state(home.scratch_folder("s0", "bitnet", "f"), {"w": torch.zeros(10)}, step, keep=3, reserve_bytes=0)
    assert len(list((home.path / "scratch").rglob("*.safetensors"))) == 3
    artifacts = [committed(home, f"s{number}", tmp_path, weights=b"%d" % number) for number in range(8)]
    home.registry.pin("s0")
    apply_retention(home, plan_retention(home, keep_sessions=2))
    assert [row.name for row in home.registry.sessions()] == ["s7", "s6", "s0"]
    collect_blobs(home, grace_seconds=0)
    assert {name for name, _ in home.blobs.names()} == {
        artifacts[number].files["weights"][0] for number in (0, 6, 7)
    }  # fmt: skip
    assert verify(home).ok


def test_a_slow_disk_thins_the_curves_out_and_never_blocks_training(tmp_path: Path) -> None:
    import sqlite3

    LocalStore(tmp_path / "m.db").close()
    store = LocalStore(tmp_path / "m.db", queue_rows=128)
    store.log(0, {"x": 0.0})
    deadline = time.monotonic() + 10
    while not read_curves(tmp_path / "m.db") and time.monotonic() < deadline:
        time.sleep(0.01)
    disk = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
    disk.execute("BEGIN IMMEDIATE")  # the writer waits for this lock as for a disk that does not answer
    for step in range(1, 5000):
        store.log(step, {"x": float(step)})
    assert store.dropped > 4000
    disk.execute("ROLLBACK")
    disk.close()
    store.close()
    assert len(read_curves(tmp_path / "m.db", points=None)["x"].steps) + store.dropped == 5000


def test_homes_that_cannot_be_used_are_refused_unchanged(tmp_path: Path) -> None:
    Home.open(tmp_path / "newer").close()
    (tmp_path / "newer" / "VERSION").write_text("2\n")
    with pytest.raises(HomeTooNew) as newer:
        Home.open(tmp_path / "newer")
    assert newer.value.exit_code == 2
    assert (tmp_path / "newer" / "VERSION").read_text() == "2\n"


def test_a_read_only_home_is_refused_in_one_sentence(tmp_path: Path) -> None:
    Home.open(tmp_path / "home").close()
    target = tmp_path / "home"
    bind = [["mount", "--bind", str(target), str(target)], ["mount", "-o", "remount,bind,ro", str(target)]]
    mounted = os.geteuid() == 0 and all(
        subprocess.run(command, capture_output=True, check=False).returncode == 0 for command in bind
    )
    if not mounted:  # as an ordinary user the rights are enough; as root /proc refuses everyone
        target.chmod(0o555)
        target = target if os.geteuid() else Path("/proc/agent-forge")
    try:
        with pytest.raises(HomeReadOnly) as caught:
            Home.open(target)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(target)], check=True)
        (tmp_path / "home").chmod(0o755)
    assert caught.value.exit_code == 2
    assert "choose another --home" in str(caught.value)
    assert "\n" not in str(caught.value)
