"""What a fingerprint depends on, and what it does not."""

from __future__ import annotations

import json

import pytest

from agent_forge.config import build_config
from agent_forge.pipeline.fingerprint import step_fingerprint
from agent_forge.pipeline.plan import build_plan
from agent_forge.pipeline.session import open_session
from agent_forge.storage.home import Home

CONFIG = build_config("smoke", ["device=cpu"], phases=["cognate"])
DATA, COGNATE = build_plan(CONFIG).steps


def key(step, config=CONFIG, device="cpu", threads=1, sources=("a",)):
    return step_fingerprint(step, config, {}, device=device, threads=threads, sources=sources)


def test_threads_count_where_tensors_are_computed_and_source_files_where_they_are_read():
    assert key(COGNATE, threads=2) != key(COGNATE, threads=1)
    assert key(DATA, threads=2) == key(DATA, threads=1)
    assert key(DATA, sources=("b",)) != key(DATA, sources=("a",))
    assert key(COGNATE, sources=("b",)) == key(COGNATE, sources=("a",))


def test_the_class_of_the_device_counts_and_its_number_does_not():
    assert key(COGNATE, device="cuda") != key(COGNATE, device="cpu")
    assert key(COGNATE, device="cuda:1") == key(COGNATE, device="cuda:0")


@pytest.mark.parametrize(("change", "moves"), [("seed=7", {"data", "cognate"}), ("cognate.steps=3", {"cognate"}),
                                               ("limits.cognate.seconds=9", set())])  # fmt: skip
def test_only_what_decides_the_outputs_of_a_phase_moves_its_fingerprint(change, moves):
    other = build_config("smoke", ["device=cpu", change], phases=["cognate"])
    assert {step.name for step in (DATA, COGNATE) if key(step, other) != key(step)} == moves


def test_a_session_keeps_the_threads_that_it_began_with(tmp_path, monkeypatch):
    with Home.open(tmp_path / "home") as home:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with open_session(home, "s", CONFIG) as session:
            assert session.threads == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        with open_session(home, "s", CONFIG) as session:
            assert session.threads == 1
        with open_session(home, "t", build_config("smoke", ["threads=3"])) as session:
            assert session.threads == 3


def test_a_run_with_other_threads_is_computed_anew_and_its_text_is_reused(forge, tiny_run, tmp_path):
    def statuses(session, threads):
        arguments = [*tiny_run(cognate__steps=4, threads=threads, handoffs="{}"), "--phases", "cognate", "--json"]
        answer = forge(*arguments, "--home", tmp_path / "home", "--session", session)
        assert answer.code == 0, answer.err
        return [phase["status"] for phase in json.loads(answer.out.splitlines()[-1])["phases"]]

    assert statuses("one", 1) == ["done", "done"]
    assert statuses("again", 1) == ["reused", "reused"]
    assert statuses("two", 2) == ["reused", "done"]
