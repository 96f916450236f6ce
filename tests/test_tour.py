"""The smoke pipeline from end to end through the command line, and every command that reads what it left.

One file, so that one worker runs the pipeline once.
"""

from __future__ import annotations

import json
import re
import shutil

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

PHASES = ["data", "cognate", "evomerge", "quietstar", "bitnet", "forge", "baking", "edge", "compression"]


@pytest.fixture(scope="module")
def home(smoke):
    path, answer = smoke
    assert answer.code == 0, answer.err
    return path


@pytest.fixture(scope="module")
def ask(forge, home):
    """A command on the smoke home that must succeed; gives what it printed."""

    def asked(*arguments, **options):
        answer = forge(*arguments, "--home", home, **options)
        assert answer.code == 0, answer.err
        return answer.out

    return asked


def tree(folder):
    """Every file below a folder that a run may write, with its size and time."""
    rooms = ("blobs", "views", "scratch", "metrics")
    files = [path for room in rooms for path in (folder / room).rglob("*") if path.is_file()]
    return {path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_text_in_agent_out(smoke, home):
    _, answer = smoke
    assert all(f"{phase}: done in" in answer.err for phase in PHASES)
    assert "size and quality" in answer.out
    assert "agent-forge chat smoke" in answer.out
    assert " NO " not in answer.out
    assert "Traceback" not in answer.err


def test_a_second_run_reuses_everything_and_writes_no_file(forge_apart, home):
    before = tree(home)
    answer = forge_apart(
        "run", "--preset", "smoke", "--home", home, "--session", "smoke", "--set", "threads=1", "--json"
    )
    assert answer.code == 0, answer.err
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert [event["phase"] for event in events if event["event"] == "reused"] == PHASES
    assert not [event for event in events if event["event"] in ("started", "progress", "log")]
    assert events[-1]["event"] == "outcome"
    assert events[-1]["passed"] is True
    assert tree(home) == before


def test_the_cascade_asks_every_model_the_same(ask, tmp_path):
    rows = json.loads(ask("cascade", "smoke", "--documents", "1", "--questions", "4", "--json"))
    assert [row["model"] for row in rows] == ["cognate: trunk", *PHASES[2:-1], "compression: .forge file"]
    assert all(row["bytes"] > 0 and row["bits_per_byte"] > 0 and row["tokens_per_second"] > 0 for row in rows)
    assert all(0 <= row[share] <= 1 for row in rows for share in ("task_accuracy", "tool_accuracy"))
    ask("report", "smoke", "--out", tmp_path / "page.html")
    assert "The cascade" in (tmp_path / "page.html").read_text()


def test_resume_of_a_finished_session_reuses_it(ask):
    events = [json.loads(line) for line in ask("resume", "smoke", "--json").splitlines()]
    assert [event["phase"] for event in events if event["event"] == "reused"] == PHASES


def test_sessions_and_models_are_listed(ask):
    rows = json.loads(ask("sessions", "list", "--json"))
    assert [(row["name"], row["status"]) for row in rows] == [("smoke", "completed")]
    detail = json.loads(ask("sessions", "show", "smoke", "--json"))
    assert [run["phase"] for run in detail["runs"]] == PHASES
    assert all(run["status"] in ("completed", "reused") for run in detail["runs"])
    models = json.loads(ask("models", "list", "--json"))
    assert sorted(row["kind"] for row in models) == ["agent_file", *["checkpoint"] * 10]
    agent = next(row for row in models if row["kind"] == "agent_file")
    assert json.loads(ask("models", "show", agent["digest"], "--json"))["kind"] == "agent_file"
    assert "smoke" in ask("sessions", "list")
    assert agent["digest"][:12] in ask("models", "list")


def test_lineage_goes_from_the_agent_to_the_corpus(ask):
    models = json.loads(ask("models", "list", "--json"))
    agent = next(row["digest"] for row in models if row["kind"] == "agent_file")
    rows = json.loads(ask("models", "lineage", agent[:12], "--json"))
    assert rows[0]["digest"] == agent
    assert {row["phase"] for row in rows} == set(PHASES)
    assert any(row["kind"] == "corpus" for row in rows)
    assert ask("models", "lineage", agent).startswith(agent[:12])


def test_the_report_is_one_file_that_asks_no_network(ask, tmp_path):
    page = tmp_path / "page.html"
    ask("report", "smoke", "--out", page)
    text = page.read_text(encoding="utf-8")
    assert all(phase in text for phase in PHASES)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?:https?:)?//""", text)
    assert "@import" not in text


def test_storage_and_machine_are_well(ask):
    found = json.loads(ask("verify", "--json"))
    assert found["ok"]
    assert found["artifacts"] >= 8
    assert ask("verify").startswith("clean")
    assert isinstance(json.loads(ask("doctor", "smoke", "--json")), list)


def test_the_agent_answers(ask):
    lines = ask("chat", "smoke", "--max-tokens", "12", stdin="How many apples are left?\nWho was there?\n").splitlines()
    assert len(lines) >= 2  # one answer to each question; a model of this size may choose to say nothing


@pytest.mark.parametrize("reference", ["smoke", "smoke/trunk", "smoke/specialists", "smoke/model"])
def test_every_model_generates_the_same_twice(ask, reference):
    command = ("generate", reference, "--prompt", "The ", "--max-tokens", "8", "--temperature", "0.8", "--json")
    first, second = (json.loads(ask(*command, "--seed", "3")) for _ in range(2))
    assert first["text"] == second["text"]
    if "turns" in first:  # an agent with tools
        assert first["turns"][-1]["text"] == first["text"]
    else:
        assert 0 <= first["num_tokens"] <= 8


def test_text_is_measured_with_the_agent_and_its_trunk(ask, tmp_path):
    text = tmp_path / "some.txt"
    text.write_text("Anna has three apples and gives one to Ben. Now she has two apples.\n" * 20)
    agent, trunk = (
        json.loads(ask("eval", reference, "--data", text, "--json"))[0] for reference in ("smoke", "smoke/trunk")
    )
    assert agent["bytes"] == trunk["bytes"] > 0
    assert 0 < trunk["bits_per_byte"] < 8
    assert agent["bits_per_byte"] == pytest.approx(trunk["bits_per_byte"], rel=0.5)


def test_the_plan_says_that_all_is_there(ask):
    rows = json.loads(ask("plan", "--preset", "smoke", "--set", "threads=1", "--json"))["phases"]
    assert [row["phase"] for row in rows][: len(PHASES)] == PHASES
    assert {row["status"] for row in rows[: len(PHASES)]} <= {"cached", "reused"}


@pytest.mark.parametrize("reference", ["smoke/model", "smoke/agent"])
def test_a_model_leaves_as_a_plain_checkpoint(ask, tmp_path, reference):
    ask("export", reference, "--to", "hf", "--out", tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    with safe_open(tmp_path / "hf" / "model.safetensors", framework="pt") as stored:
        assert set(stored.keys()) <= set(model.state_dict())
    text = tmp_path / "some.txt"
    text.write_text("Anna has three apples and gives one to Ben. Now she has two apples.\n" * 20)
    theirs, ours = (
        json.loads(ask("eval", place, "--data", text, "--json"))[0] for place in (tmp_path / "hf", reference)
    )
    assert theirs["bits_per_byte"] == pytest.approx(ours["bits_per_byte"], rel=0.05)  # without int8 activations


def test_a_corpus_is_described(forge, tmp_path):
    text = tmp_path / "some.txt"
    text.write_text("A line of text that is long enough to be kept by the filters of the data step.\n" * 50)
    row = forge("data", "inspect", text, "--json").json()[0]
    assert row["documents"] >= 1
    assert row["bytes"] == text.stat().st_size or row["bytes"] > 0


def test_a_gate_that_cannot_hold_stops_without_training_again(forge, home, tmp_path):
    copy = tmp_path / "home"
    shutil.copytree(home, copy, symlinks=True)
    gate = '{metric: bitnet/retention_fraction, comparison: ">", bound: 2.0, why: impossible}'
    answer = forge(
        "run", "--preset", "smoke", "--home", copy, "--set", "threads=1",
        "--set", f"gates.bitnet=[{gate}]", "--session", "strict", "--json",
    )  # fmt: skip
    assert answer.code == 3
    assert "bitnet/retention_fraction" in answer.sentence()
    assert "must be > 2" in answer.sentence()
    events = [json.loads(line) for line in answer.out.splitlines()]
    assert not [event for event in events if event["event"] == "started"]
    assert [event["phase"] for event in events if event["event"] == "reused"] == PHASES[: PHASES.index("bitnet") + 1]
    rows = forge("sessions", "list", "--home", copy, "--json").json()
    assert {row["name"]: row["status"] for row in rows} == {"strict": "failed", "smoke": "completed"}
