"""Views give plain JSON values with the keys that the command line shows."""

import json

import pytest

from agent_forge.errors import ModelNotFound, SessionNotFound
from agent_forge.pipeline.views import lineage_rows, model_detail, model_rows, session_detail, session_rows


def test_sessions_newest_first_with_their_finished_phases(filled_home):
    rows = session_rows(filled_home)
    assert [row["name"] for row in rows] == ["broken", "stuck", "demo"]
    assert [row["phases"] for row in rows] == ["", "cognate", "data, cognate, evomerge, bitnet, compression"]
    assert rows[2]["status"] == "completed"
    assert json.loads(json.dumps(rows)) == rows


def test_a_session_with_its_gates_judged_again(filled_home):
    detail = session_detail(filled_home, "demo")
    assert json.loads(json.dumps(detail)) == detail
    cognate = next(run for run in detail["runs"] if run["phase"] == "cognate")
    assert cognate["seconds"] == 12.5
    assert cognate["peak_memory_bytes"] == 3 * 2**28
    assert set(cognate["outputs"]) == {"specialists", "trunk"}
    assert not any(name.startswith("run/") for name in cognate["measured"])
    assert [gate["passed"] for gate in cognate["gates"]] == [True, True]
    evomerge = next(run for run in detail["runs"] if run["phase"] == "evomerge")
    assert [(gate["passed"], gate["severity"]) for gate in evomerge["gates"]] == [(False, "warn")]


def test_a_gate_of_an_unmeasured_figure_has_failed(filled_home):
    filled_home.registry.create_session("thin", filled_home.registry.session("demo").config)
    run = filled_home.registry.begin_phase_run("thin", "compression", "a" * 64)
    filled_home.registry.commit_phase_run(run, {}, {})
    gate = session_detail(filled_home, "thin")["runs"][0]["gates"][0]
    assert gate["measured"] is None
    assert gate["passed"] is False


def test_a_failed_run_keeps_its_error_and_has_no_gates(filled_home):
    run = session_detail(filled_home, "broken")["runs"][0]
    assert run["status"] == "out_of_memory"
    assert "it used 9 GiB" in run["error"]
    assert run["gates"] == []


def test_only_the_newest_attempt_of_a_phase_is_shown(filled_home):
    registry = filled_home.registry
    again = registry.begin_phase_run("broken", "cognate", "f" * 64)
    registry.commit_phase_run(again, {}, {"test/bits_per_byte": 1.0})
    runs = session_detail(filled_home, "broken")["runs"]
    assert [(run["phase"], run["status"], run["attempt"]) for run in runs] == [("cognate", "completed", 2)]


def test_models_name_role_and_every_session(filled_home):
    rows = {row["role"]: row for row in model_rows(filled_home)}
    assert set(rows) == {
        "trunk trunk", "specialists reasoning", "specialists memory_integration", "specialists adaptive_computation",
        "model", "agent",
    }  # fmt: skip
    assert rows["agent"]["kind"] == "agent_file"
    assert rows["specialists reasoning"]["sessions"] == "stuck, demo"
    assert rows["model"]["sessions"] == "demo"


def test_lineage_reaches_the_corpus(filled_home):
    digest = next(row["digest"] for row in model_rows(filled_home) if row["role"] == "agent")
    rows = lineage_rows(filled_home, digest[:10])
    assert rows[0]["depth"] == 0
    assert rows[0]["phase"] == "compression"
    assert [row["depth"] for row in rows] == sorted(row["depth"] for row in rows)
    assert "corpus" in {row["kind"] for row in rows}
    assert {row["phase"] for row in rows} == {"compression", "bitnet", "evomerge", "cognate", "data"}
    assert model_detail(filled_home, digest[:10])["files"]["agent.forge"]["bytes"] == 5


def test_unknown_names_are_refused(filled_home):
    with pytest.raises(SessionNotFound, match="nowhere"):
        session_detail(filled_home, "nowhere")
    with pytest.raises(ModelNotFound):
        model_detail(filled_home, "0" * 12)
