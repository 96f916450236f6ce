"""Nothing gets out of the sandbox: every attempt is an error to the model, and the machine is none the worse.

Run in each tier that holds here. Where a tier does not hold, it is not used; where none does, the tool is disabled.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
from tests.agent.escapes import ESCAPES, EXHAUSTION, OLD_CALLS, X86_ONLY

import agent_forge
from agent_forge.agent import tiers
from agent_forge.agent.calls import Call
from agent_forge.agent.python_tool import python_tool
from agent_forge.agent.sandbox import TIERS, Limits, Outcome, run_confined
from agent_forge.agent.schema import object_schema
from agent_forge.agent.toolbox import Tool, Toolbox

SCHEMA = object_schema(code={"type": "string"})
QUICK = Limits(cpu_seconds=1, wall_seconds=1.5)
ROOMY = Limits(cpu_seconds=10, wall_seconds=40, num_files=8, output_bytes=1000)


@pytest.fixture(scope="module", params=TIERS)
def tier(request):
    """A tier that holds on this machine, or None where it does not."""
    found = next(each for each in tiers.probe_tiers() if each.tier == request.param)
    return found.tier if found.holds else None


@pytest.fixture(scope="module", autouse=True)
def own_temporary_folder(tmp_path_factory):
    """Where the sandbox makes its folders, so that left-overs are ours."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("boxes"))
    yield
    tempfile.tempdir = before


@pytest.fixture(scope="module")
def outer(tmp_path_factory):
    """Things outside that a program would like to reach."""
    place = tmp_path_factory.mktemp("outer")
    (place / "secret").write_text("a secret")
    (place / "secret").chmod(0o666)
    place.chmod(0o777)
    os.environ["AGENT_FORGE_SECRET"] = "a-word-of-the-host"
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    unix, abstract = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    udp.bind(("127.0.0.1", 0))
    short = tempfile.mkdtemp(dir="/tmp")  # the path of a socket has 108 bytes at most
    unix.bind(f"{short}/s")
    abstract.bind(f"\0agent-forge-{os.getpid()}")
    for each in (unix, abstract):
        each.listen()
    for each in (tcp, udp, unix, abstract):
        each.setblocking(False)
    inherited = os.open(place / "secret", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    yield {
        "secret": str(place / "secret"), "outside": str(place / "outside"), "host": os.getpid(),
        "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "unix": f"{short}/s",
        "abstract": f"\0agent-forge-{os.getpid()}", "package": str(Path(agent_forge.__file__).parents[1]),
        "sockets": (tcp, udp, unix, abstract), "place": place,
    }  # fmt: skip
    del os.environ["AGENT_FORGE_SECRET"]
    os.close(inherited)
    for each in (tcp, udp, unix, abstract):
        each.close()
    Path(short, "s").unlink()
    Path(short).rmdir()


def boxed(tier):
    run, disabled, notes = python_tool(10, 256, tier)
    return Toolbox([Tool("python", "runs a program", SCHEMA, "python", {}, run, disabled, notes)])


def refused(tier, code):
    """What the model is told about a program that must not succeed; where the tier does not hold, it is not used."""
    if tier is None:
        best = tiers.best_tier()
        result = Toolbox([Tool("python", "", SCHEMA, "python", {}, *python_tool())]).call(Call("python", code))
        assert result.notes["sandbox"] == (best or "none")
        assert best is not None or "no sandbox holds" in result.text
        return result
    return boxed(tier).call(Call("python", code))


def assert_untouched(outer):
    place = outer["place"]
    assert sorted(path.name for path in place.iterdir()) == ["secret"]
    assert (place / "secret").read_text() == "a secret"
    assert (place / "secret").stat().st_mode & 0o777 == 0o666
    for each in outer["sockets"]:
        with pytest.raises(BlockingIOError):
            each.accept() if each.type == socket.SOCK_STREAM else each.recv(1)
    assert not Path("/tmp/agent-forge-escaped").exists()
    assert not Path("/dev/shm/agent-forge-escaped").exists()


def assert_nothing_is_left():
    own = [each.cmdline() for each in psutil.Process().children(recursive=True) if each.is_running()]
    assert not any("bwrap" in " ".join(line) or "Confines this process" in " ".join(line) for line in own)
    assert list(Path(tempfile.gettempdir()).glob("agent-forge-box-*")) == []


@pytest.mark.parametrize("name", ESCAPES)
def test_nothing_gets_out(tier, outer, name):
    if name in X86_ONLY and platform.machine() != "x86_64":
        name = "fork"  # the numbers of the calls are those of x86-64
    code = ESCAPES[name].format(**outer) + "\nprint('ESCAPED')"
    result = refused(tier, code)
    assert not result.ok, f"{name}: {result.text}"
    assert result.text
    for word in ("ESCAPED", "a secret", "a-word-of-the-host", "uid="):
        assert word not in result.text
    assert_untouched(outer)
    assert_nothing_is_left()


@pytest.mark.parametrize("name", EXHAUSTION)
def test_nothing_is_exhausted(tier, name):
    code, told = EXHAUSTION[name]
    if tier is None:
        assert not refused(tier, "1 +").ok
        return
    limits = QUICK if "took longer" in told else ROOMY  # on a busy machine everything else takes its time, too
    outcome = run_confined(code, tier, limits)
    assert re.search(told, outcome.error), outcome.error
    assert len(outcome.output) <= limits.output_bytes
    assert_nothing_is_left()


def test_the_calls_of_old_programs(tier):
    code = OLD_CALLS if platform.machine() == "x86_64" else "import os; os.fork()"
    assert not refused(tier, code).ok
    assert_nothing_is_left()


def test_the_processor_time_is_limited(tier):
    if tier is None:
        assert refused(tier, "1 +").ok is False
        return
    outcome = run_confined("while True: pass", tier, Limits(cpu_seconds=1, wall_seconds=30))
    assert outcome.error == "it used more than 1 s of processor time"


GOOD = {
    "1 + 1": "2",
    "for n in range(3): print(n)": "0\n1\n2",
    "import math\nmath.comb(10, 3)": "120",
    "x = 5\nx * x": "25",
    "None": "it printed nothing",
    "open('note', 'w').write('hé'); print(open('note').read())": "hé",
    "import os\nprint(os.listdir())": "[]",
    "import json, re, random, statistics, datetime, decimal, fractions, collections, heapq; print('all')": "all",
    "print('a\\x1b[2Jb')": "a[2Jb",
    "import sys; print('x'); sys.exit()": "x",
    "import os; os.rename(open('a', 'w').name, 'b'); print(os.listdir()); os.remove('b')": "['b']",
}


@pytest.mark.parametrize("code", GOOD)
def test_honest_programs_run(tier, code):
    result = refused(tier, code)
    assert result.ok or tiers.best_tier() is None
    assert result.text == GOOD[code] or tiers.best_tier() is None


def test_it_ends_with_the_program_that_started_it(tier):
    """Killed without warning, the host leaves nothing behind that runs."""
    program = (
        "from agent_forge.agent.sandbox import Limits, run_confined\n"
        f"print(run_confined('import time; time.sleep(60)', {tier or 'landlock'!r}, Limits(wall_seconds=60)))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL) as host:
        started = []
        for _ in range(200):
            started = psutil.Process(host.pid).children(recursive=True)
            if tier is None or (started and "sleep(60)" not in str(started[-1].cmdline())):
                break
            time.sleep(0.05)
        time.sleep(0.5)  # until the limits stand
        host.kill()
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("1 +", "SyntaxError: invalid syntax"),
        ("import sys; sys.exit(3)", "it ended with code 3"),
        ("x = input()", "EOFError: EOF when reading a line"),
    ],
)
def test_what_is_wrong_with_a_program_is_told(tier, code, why):
    result = refused(tier, code)
    assert not result.ok
    assert result.text == why or tiers.best_tier() is None


def test_without_any_tier_the_tool_is_disabled(monkeypatch):
    """No bubblewrap and no Landlock: nothing weaker is used instead."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(tiers, "landlock_version", lambda: 2)
    tiers.probe_tiers.cache_clear()
    try:
        assert tiers.best_tier() is None
        run, disabled, notes = python_tool()
        assert "bwrap is not installed" in disabled
        assert "Landlock has version 2, and 3 is needed" in disabled
        assert notes == {"sandbox": "none"}
        result = Toolbox([Tool("python", "", SCHEMA, "python", {}, run, disabled, notes)]).call(Call("python", "1"))
        assert (result.ok, result.text) == (False, disabled)
    finally:
        tiers.probe_tiers.cache_clear()


def test_a_tier_that_leaks_is_not_used(monkeypatch):
    """The probe is a real attempt: a machine without a filter of system calls has no sandbox."""
    monkeypatch.setattr(tiers, "run_confined", run_unconfined)
    for name in TIERS:
        monkeypatch.setattr(tiers, "_missing", lambda tier: "")
        found = tiers.probe(name)
        assert not found.holds
        assert "read a file" in found.why
        assert "connect" in found.why


def run_unconfined(code, tier, limits):
    """The program of the probe in a plain interpreter: what a sandbox that holds nothing would give."""
    code = code.replace('attempt("run a program"', '0 and attempt("run a program"')
    code = code.replace('attempt("start a process", os.fork)', "")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=True)
    return Outcome(done.stdout, "", 0.0, tier)


def test_other_machines_have_no_sandbox():
    from agent_forge.agent.seccomp import system_call_filter

    assert system_call_filter("riscv64") is None
    assert system_call_filter("aarch64") is not None
    assert len(system_call_filter("x86_64") or []) < 256  # jumps within are one byte
