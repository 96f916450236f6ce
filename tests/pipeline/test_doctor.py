"""Doctor names what is wrong, with numbers, and stays silent about what is well."""

import json
import os
import subprocess
import sys

import pytest

from agent_forge.errors import ConfigError, SessionNotFound
from agent_forge.pipeline.doctor import examine
from agent_forge.storage.home import FORMAT
from agent_forge.storage.session_lock import SessionLock


def about(findings, what):
    return [finding for finding in findings if what in finding["what"]]


def test_the_machine_and_an_absent_home(tmp_path):
    findings = examine(tmp_path / "nowhere", None)
    assert {"level", "what", "found", "advice"} == set().union(*findings)
    assert json.loads(json.dumps(findings)) == findings
    assert about(findings, "Python")[0]["level"] == "ok"
    assert about(findings, "SQLite")[0]["found"]
    assert about(findings, "home")[0]["found"].startswith("none at")
    assert not (tmp_path / "nowhere").exists(), "looking must not make one"


def test_a_healthy_home(filled_home):
    found = about(examine(filled_home.path, None), "home")[0]
    assert found["level"] == "ok"
    assert "3 sessions" in found["found"]


def test_a_home_of_a_newer_version_is_a_problem(filled_home):
    (filled_home.path / "VERSION").write_text(f"{FORMAT + 1}\n")
    found = about(examine(filled_home.path, None), "home")[0]
    assert found["level"] == "problem"
    assert f"format {FORMAT + 1}" in found["found"]


def test_a_failed_gate_is_a_problem_with_its_numbers(filled_home):
    found = about(examine(filled_home.path, "stuck"), "gate test/bits_per_byte of cognate")
    assert [(each["level"], each["found"]) for each in found] == [("problem", "3, and must be < 2.5")]


def test_a_warning_is_told_with_its_premortem_entry(filled_home):
    findings = examine(filled_home.path, "demo")
    warned = about(findings, "A2")
    assert warned[0]["level"] == "warning"
    assert "memory is unused in <reasoning> (m_usage = 0.12)" in warned[0]["found"]
    assert "done: " in warned[0]["advice"]
    assert "try: " in warned[0]["advice"]
    assert about(findings, "gate evolution/diversity")[0]["level"] == "warning"


def test_a_curve_that_was_not_a_number_is_told(filled_home):
    told = [finding for finding in examine(filled_home.path, "demo") if "NaN" in finding["what"]]
    assert any("grad/norm was not a number 1 times" in finding["found"] for finding in told)


def test_running_out_of_memory_is_told(filled_home):
    told = [finding for finding in examine(filled_home.path, "broken") if "it used 9 GiB" in finding["found"]]
    assert [finding["level"] for finding in told] == ["problem"]


def test_a_session_with_nothing_wrong_says_what_was_looked_at(filled_home):
    filled_home.registry.create_session("well", {"preset": "smoke"})
    found = about(examine(filled_home.path, "well"), "premortem")[0]
    assert found["level"] == "ok"
    assert found["found"].endswith("curves read: none was logged")


def test_a_lock_of_a_dead_process_is_stale_and_a_live_one_is_not(filled_home):
    folder = filled_home.path / "sessions" / "demo"
    with SessionLock(folder):
        live = about(examine(filled_home.path, None), "session demo")
        assert [(each["level"], str(os.getpid()) in each["found"]) for each in live] == [("ok", True)]
    program = (
        "import os, sys; from pathlib import Path; from agent_forge.storage.session_lock import SessionLock\n"
        "SessionLock(Path(sys.argv[1])).acquire(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(folder)], check=True)
    stale = about(examine(filled_home.path, None), "session demo")
    assert stale[0]["level"] == "warning"
    assert "is gone" in stale[0]["found"]
    assert "agent-forge resume demo" in stale[0]["advice"]


def test_a_session_marked_running_without_a_process_is_told(filled_home):
    filled_home.registry.set_session_status("demo", "running")
    assert about(examine(filled_home.path, None), "session demo")[0]["level"] == "warning"


def test_names_that_are_not_there_are_refused(filled_home, tmp_path):
    with pytest.raises(SessionNotFound):
        examine(filled_home.path, "nowhere")
    with pytest.raises(ConfigError, match="no home"):
        examine(tmp_path / "nowhere", "demo")


def test_looking_imports_no_torch(tmp_path):
    program = "import sys; from pathlib import Path; from agent_forge.pipeline.doctor import examine\n"
    program += "examine(Path(sys.argv[1]), None); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
