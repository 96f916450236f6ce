"""Phases that hang, eat memory, are killed or fail; runners that are killed or stopped; artifacts that rot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time

import psutil
import pytest

COGNATE = ("--phases", "cognate")


@pytest.fixture(scope="module")
def whole(forge, tiny_run, tmp_path_factory):
    """A home with one tiny run of all phases, session ``tiny``; copied before it is changed."""
    home = tmp_path_factory.mktemp("whole") / "home"
    answer = forge(*tiny_run(), "--home", home, "--session", "tiny")
    assert answer.code == 0, answer.err
    return home


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "home", symlinks=True)
    return tmp_path / "home"


def runs(forge, home, session):
    return forge("sessions", "show", session, "--home", home, "--json").json()["runs"]


def outputs(forge, home, session):
    return {run["phase"]: run["outputs"] for run in runs(forge, home, session) if run["outputs"]}


def row(forge, home, session):
    rows = forge("sessions", "list", "--home", home, "--json").json()
    return next(each for each in rows if each["name"] == session)


def events(answer):
    return [json.loads(line) for line in answer.out.splitlines()]


def phases_of(answer, kind):
    return [event["phase"] for event in events(answer) if event["event"] == kind]


def workers(runner):
    """Processes of phases: the data step, and forks of the fork server, which is a child of the runner as well."""
    found = {each: " ".join(each.cmdline()) for each in psutil.Process(runner).children()}
    forks = [each for server, command in found.items() if "forkserver" in command for each in server.children()]
    return [*forks, *(each for each, command in found.items() if "spawn_main" in command)]


def worker_of(runner):
    """The process of the running phase."""
    assert wait_until(lambda: workers(runner.pid)), "no phase was started"
    return workers(runner.pid)[0]


def has_state(home, session):
    states = list((home / "scratch" / session).glob("cognate-*/states/*"))
    return any(not path.name.startswith(".") for path in states)


def wait_until(condition, seconds=120.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def begun(forge_process, arguments, home, session):
    """A runner that has saved at least one state of cognate."""
    runner = forge_process(*arguments, "--home", home, "--session", session)
    assert wait_until(lambda: has_state(home, session) or runner.poll() is not None)
    assert runner.poll() is None, runner.communicate()
    return runner


def long(tiny_run):
    """A cognate run long enough to be hit in the middle."""
    return [*tiny_run(cognate__steps=300), *COGNATE]


@pytest.fixture(scope="module")
def unbroken(forge, tiny_run, tmp_path_factory):
    """Digests of the long run when nobody disturbs it."""
    home = tmp_path_factory.mktemp("unbroken") / "home"
    answer = forge(*long(tiny_run), "--home", home, "--session", "one")
    assert answer.code == 0, answer.err
    return outputs(forge, home, "one")


# Limits


def test_cf4_a_phase_over_its_time_is_ended_and_can_go_on(forge, tiny_run, tmp_path):
    # seconds enough for a first checkpoint on a busy machine
    arguments = [*tiny_run(cognate__steps=100_000, limits__cognate__seconds=5), *COGNATE]
    answer = forge(*arguments, "--home", tmp_path / "home", "--session", "slow")
    assert answer.code == 4
    assert "longer than its limit of 5 seconds" in answer.sentence()
    assert workers(os.getpid()) == []
    found = runs(forge, tmp_path / "home", "slow")
    assert [(run["phase"], run["status"]) for run in found] == [("data", "completed"), ("cognate", "timeout")]
    assert row(forge, tmp_path / "home", "slow")["status"] == "failed"
    again = forge("resume", "slow", "--home", tmp_path / "home", "--json")
    assert again.code == 4  # the limit is part of the session
    assert phases_of(again, "reused") == ["data"]
    resumed = [event["step"] for event in events(again) if event["event"] == "resumed"]
    assert resumed
    assert resumed[0] > 0


def test_env1_a_phase_over_its_memory_is_ended_alone(forge, tiny_run, tmp_path):
    arguments = [*tiny_run(cognate__steps=100_000, limits__cognate__memory_gib=0.1), *COGNATE]
    answer = forge(*arguments, "--home", tmp_path / "home", "--session", "large")
    assert answer.code == 4
    assert "its limit is 0.1 GiB" in answer.sentence()
    assert "memory_gib" in answer.sentence()
    assert [run["status"] for run in runs(forge, tmp_path / "home", "large")] == ["completed", "out_of_memory"]
    assert forge("verify", "--home", tmp_path / "home").code == 0


# Kills


def test_a_killed_phase_is_one_sentence_and_resuming_gives_the_same(forge, forge_process, tiny_run, unbroken, tmp_path):
    home = tmp_path / "home"
    with begun(forge_process, long(tiny_run), home, "one") as runner:
        worker_of(runner).send_signal(signal.SIGKILL)
        _, said = runner.communicate(timeout=120)
    assert runner.returncode == 4
    assert "phase cognate failed" in said.splitlines()[-1]
    assert "was killed" in said.splitlines()[-1]
    assert "Traceback" not in said
    answer = forge("resume", "one", "--home", home, "--json")
    assert answer.code == 0, answer.err
    assert phases_of(answer, "resumed") == ["cognate"]
    assert outputs(forge, home, "one") == unbroken


def test_when_the_runner_is_killed_its_phase_ends_itself_and_resuming_gives_the_same(
    forge, forge_process, tiny_run, unbroken, tmp_path
):
    home = tmp_path / "home"
    with begun(forge_process, long(tiny_run), home, "one") as runner:
        family = psutil.Process(runner.pid).children(recursive=True)
        worker = worker_of(runner)
        assert worker in family
        runner.kill()
        runner.communicate()
    assert wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 30)
    assert row(forge, home, "one")["status"] == "running"  # nobody was there to say otherwise
    answer = forge("resume", "one", "--home", home, "--json")
    assert answer.code == 0, answer.err
    assert phases_of(answer, "resumed") == ["cognate"]
    assert outputs(forge, home, "one") == unbroken
    assert row(forge, home, "one")["status"] == "completed"
    assert forge("verify", "--home", home, "--json").json()["ok"]


def test_control_c_stops_at_a_saved_state_and_resuming_gives_the_same(
    forge, forge_process, tiny_run, unbroken, tmp_path
):
    home = tmp_path / "home"
    # A group of its own, so that the signal reaches the phase's process as well, as from a terminal.
    runner = forge_process(*long(tiny_run), "--home", home, "--session", "one", start_new_session=True)
    with runner:
        assert wait_until(lambda: has_state(home, "one"))
        os.killpg(runner.pid, signal.SIGINT)
        _, said = runner.communicate(timeout=120)
    assert runner.returncode == 130, said
    assert "agent-forge resume one" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert row(forge, home, "one")["status"] == "interrupted"
    answer = forge("resume", "one", "--home", home)
    assert answer.code == 0, answer.err
    assert outputs(forge, home, "one") == unbroken


def test_control_c_in_the_data_step_starts_no_further_phase(forge, forge_process, tiny_run, tmp_path):
    home = tmp_path / "home"
    arguments = [*tiny_run(data__synthetic_bytes=400_000), *COGNATE, "--home", home, "--session", "one"]
    # The whole group, as from a terminal: the data step and the fork server are still importing.
    with forge_process(*arguments, start_new_session=True) as runner:
        worker_of(runner)
        os.killpg(runner.pid, signal.SIGINT)
        _, said = runner.communicate(timeout=120)
    assert runner.returncode == 130, said
    assert "cognate: started" not in said
    assert "Traceback" not in said
    assert "agent-forge resume one" in said.splitlines()[-1]
    assert row(forge, home, "one")["status"] == "interrupted"


# Rot, and fallbacks


def test_an_altered_artifact_is_found_and_made_again(forge, tiny_run, copy):
    before = outputs(forge, copy, "tiny")
    model = next(each for each in forge("models", "list", "--home", copy, "--json").json() if each["phase"] == "bitnet")
    files = forge("models", "show", model["digest"], "--home", copy, "--json").json()["files"]
    sha256 = files["model.safetensors"]["sha256"]
    blob = copy / "blobs" / sha256[:2] / sha256
    blob.chmod(0o644)
    body = bytearray(blob.read_bytes())
    body[len(body) // 2] ^= 1
    blob.write_bytes(bytes(body))
    answer = forge("verify", "--home", copy)
    assert answer.code == 5
    assert sha256[:12] in answer.sentence()
    refused = forge("generate", "tiny/model", "--prompt", "a", "--home", copy)
    assert refused.code == 5, refused
    assert "was altered" in refused.sentence()
    again = forge(*tiny_run(), "--home", copy, "--session", "tiny", "--json")
    assert again.code == 0, again.err
    assert phases_of(again, "started") == ["bitnet"]
    assert phases_of(again, "reused") == ["data", "cognate", "evomerge", "compression"]
    assert any("computed again" in event["message"] for event in events(again) if event["event"] == "warning")
    assert outputs(forge, copy, "tiny") == before
    assert forge("verify", "--home", copy).code == 0


def test_a_phase_that_may_be_left_out_is_left_out_visibly(forge, tiny_run, copy):
    arguments = tiny_run(limits__bitnet__seconds=0.001, bitnet__recovery_steps=6, fallbacks__bitnet="skip")
    answer = forge(*arguments, "--home", copy, "--session", "short", "--json")
    assert answer.code == 3, answer.err
    assert phases_of(answer, "degraded") == ["bitnet"]
    outcome = events(answer)[-1]
    assert outcome["passed"] is False
    assert {item["phase"]: item["status"] for item in outcome["phases"]}["bitnet"] == "degraded"
    assert "longer than its limit" in next(item["note"] for item in outcome["phases"] if item["phase"] == "bitnet")
    assert row(forge, copy, "short")["status"] == "degraded"
    assert outputs(forge, copy, "short")["compression"] != outputs(forge, copy, "tiny")["compression"]


def test_a_phase_that_others_need_is_never_left_out(forge, tiny_run, copy):
    arguments = tiny_run(limits__evomerge__seconds=0.001, evomerge__generations=2, fallbacks__evomerge="skip")
    answer = forge(*arguments, "--home", copy, "--session", "short")
    assert answer.code == 4
    assert "phase evomerge failed" in answer.sentence()
    assert row(forge, copy, "short")["status"] == "failed"
