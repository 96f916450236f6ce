"""Runs a program that nobody vouches for, or does not run it.

Two tiers, the stricter one first; each is tried for real before it is used (a program that attempts to escape), and
where neither holds there is no sandbox: the tools that need one are disabled.

1. ``bubblewrap``: namespaces of its own for files, network, processes, users; it sees the standard library
   and one empty folder. Inside it, everything of tier 2 that the kernel has.
2. ``landlock``: Landlock (kernel 6.2 or newer) closes all files but these. Unlike in tier 1, the program can learn
   which paths exist, though not read them.

In both: a filter of system calls (no new process or thread, no socket, no signal to others, no other program), no
capabilities, an empty environment, limits on processor time, memory, size and number of files, output and wall-clock
time, after which the process group is killed. A program in Python itself is not confined by Python: interpreters
in which ``import`` was forbidden have been escaped again and again.
"""

from __future__ import annotations

import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from agent_forge.agent import confined
from agent_forge.agent.seccomp import system_call_filter

Tier: TypeAlias = Literal["bubblewrap", "landlock"]
TIERS: tuple[Tier, ...] = ("bubblewrap", "landlock")
OLDEST_LANDLOCK = 3  # before it, a file that may be read could be emptied
_INSIDE = "/box"
_TICK_SECONDS = 0.02
_MEMORY_ERROR = ("MemoryError", "Cannot allocate memory", "could not allocate", "out of memory")


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Attributes:
        cpu_seconds: of processor time, whole seconds.
        wall_seconds: until it is killed.
        memory_bytes: of address space, the interpreter's 30 MB included.
        file_bytes: of one file.
        folder_bytes: of all files together; looked at 50 times a second.
        num_files: in the folder.
        output_bytes: of what it prints.
    """

    cpu_seconds: int = 2
    wall_seconds: float = 5.0
    memory_bytes: int = 256 << 20
    file_bytes: int = 1 << 20
    folder_bytes: int = 4 << 20
    num_files: int = 64
    output_bytes: int = 64 << 10


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        output: what it printed.
        error: why it failed, one sentence; empty if it did not.
        seconds: wall-clock time, start of the interpreter included.
        tier: the sandbox that held it.
        layers: what held inside, as the process itself reported before the program began.
    """

    output: str
    error: str
    seconds: float
    tier: Tier
    layers: tuple[str, ...] = ()


def run_confined(code: str, tier: Tier, limits: Limits | None = None) -> Outcome:
    """Runs a program in Python in a tier of the sandbox.

    Args:
        code: the program; the value of a last expression is printed.
        tier: which one; it must have been found by `agent_forge.agent.tiers.best_tier`.
        limits: what it may use.

    Returns:
        What it printed, or why it failed.
    """
    limits = limits or Limits()
    start = time.perf_counter()
    with _empty_folder() as folder:
        job = _job(code, tier, limits, folder)
        process = subprocess.Popen(
            _command(tier, folder),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={}, cwd="/", close_fds=True, start_new_session=True,
        )  # fmt: skip
        try:
            out, err, stopped = _watch(process, json.dumps(job).encode(), limits, folder)
        finally:
            _kill(process)
        seconds = time.perf_counter() - start
    first, _, output = out.partition(b"\n")
    if process.returncode == confined.REFUSED or not first.startswith(b"["):
        why = _last_line(err) or f"the interpreter ended with code {process.returncode}"
        return Outcome("", f"the program was not run: {why}", seconds, tier)
    layers = tuple(json.loads(first))
    text = output[: limits.output_bytes].decode("utf-8", "replace").rstrip("\n")
    error = stopped or _why(process.returncode, err, limits)
    return Outcome(text, error, seconds, tier, layers)


def landlock_version() -> int:
    """Version of the kernel's Landlock; 0 without."""
    if not sys.platform.startswith("linux"):
        return 0
    return max(0, int(ctypes.CDLL(None).syscall(444, None, 0, 1)))


def _job(code: str, tier: Tier, limits: Limits, folder: Path) -> dict[str, Any]:
    landlock = landlock_version()
    return {
        "code": code,
        "folder": _INSIDE if tier == "bubblewrap" else str(folder),
        "readable": [path for path in readable_paths() if os.path.exists(path)],
        "landlock": landlock if landlock >= OLDEST_LANDLOCK else 0,
        "unshare": tier == "landlock",
        "filter": system_call_filter(),
        "limits": {
            "AS": limits.memory_bytes, "CPU": limits.cpu_seconds, "FSIZE": limits.file_bytes, "NOFILE": 32,
            "NPROC": 1, "CORE": 0, "MEMLOCK": 0, "MSGQUEUE": 0, "STACK": 8 << 20,
        },
    }  # fmt: skip


def readable_paths() -> list[str]:
    """What a program may read: the standard library and the libraries of the system that it links."""
    library = sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix, "base": sys.base_prefix})
    paths = [library, "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", interpreter()]
    shared = sysconfig.get_config_var("LIBDIR")
    if shared and sysconfig.get_config_var("Py_ENABLE_SHARED"):
        paths += sorted(str(path) for path in Path(shared).glob("libpython3*.so*"))
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def interpreter() -> str:
    """The interpreter outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def _command(tier: Tier, folder: Path) -> list[str]:
    source = Path(confined.__file__).read_text(encoding="utf-8")
    python = [interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", source]
    if tier == "landlock":
        return python
    wrapped = [shutil.which("bwrap") or "bwrap", "--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    wrapped += ["--uid", "65534", "--gid", "65534", "--hostname", "box", "--clearenv"]
    for path in readable_paths():
        wrapped += ["--ro-bind", path, path]
    return [*wrapped, "--bind", str(folder), _INSIDE, "--remount-ro", "/", "--chdir", _INSIDE, "--", *python]


def _watch(process: subprocess.Popen[bytes], job: bytes, limits: Limits, folder: Path) -> tuple[bytes, bytes, str]:
    """Output, errors, and why the process was stopped, if it was."""
    deadline = time.monotonic() + limits.wall_seconds
    kept = {"out": bytearray(), "err": bytearray()}
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    pending = memoryview(job)
    with selectors.DefaultSelector() as selector:
        for stream, name in ((process.stdout, "out"), (process.stderr, "err")):
            os.set_blocking(stream.fileno(), False)
            selector.register(stream, selectors.EVENT_READ, name)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE, "in")
        while len(selector.get_map()):
            for key, _ in selector.select(_TICK_SECONDS):
                if key.data == "in":
                    pending = _feed(process, pending, selector)
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(key.fileobj)
                kept[key.data] += chunk
            why = _overrun(kept, deadline, limits, folder)
            if why:
                _kill(process)
                return bytes(kept["out"]), bytes(kept["err"]), why
    why = ""
    while process.poll() is None and not why:  # it has closed its output and goes on
        time.sleep(_TICK_SECONDS / 4)
        why = _overrun(kept, deadline, limits, folder)
    return bytes(kept["out"]), bytes(kept["err"]), why or _overrun(kept, float("inf"), limits, folder)


def _feed(process: subprocess.Popen[bytes], pending: memoryview, selector: selectors.BaseSelector) -> memoryview:
    """Writes some of the job; closes the pipe when it is through or nobody reads any more."""
    assert process.stdin is not None
    try:
        pending = pending[os.write(process.stdin.fileno(), pending[:65536]) :]
    except BrokenPipeError:
        pending = pending[len(pending) :]
    if not len(pending):
        selector.unregister(process.stdin)
        process.stdin.close()
    return pending


def _overrun(kept: dict[str, bytearray], deadline: float, limits: Limits, folder: Path) -> str:
    if len(kept["out"]) + len(kept["err"]) > limits.output_bytes + 4096:
        return f"it printed more than {limits.output_bytes} bytes"
    if time.monotonic() > deadline:
        return f"it took longer than {limits.wall_seconds:g} s"
    count = size = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            count += 1
            try:
                size += entry.stat(follow_symlinks=False).st_size
            except FileNotFoundError:  # removed by the program just now
                continue
            if count > limits.num_files:
                return f"it made more than {limits.num_files} files"
    return f"it wrote more than {limits.folder_bytes} bytes" if size > limits.folder_bytes else ""


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group, whatever it does, and waits for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.poll()  # it has ended by itself
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _why(code: int, err: bytes, limits: Limits) -> str:
    """One sentence about a process that ended by itself; empty if all was well."""
    if code == 0:
        return ""
    # bubblewrap gives the signal of its child as a shell does
    number = -code if code < 0 else code - 128 if code > 128 else 0
    if number in (signal.SIGXCPU, signal.SIGKILL):
        return f"it used more than {limits.cpu_seconds} s of processor time"
    if number == signal.SIGXFSZ:
        return f"it wrote a file of more than {limits.file_bytes} bytes"
    if number:
        return f"it crashed with signal {number}"
    last = _last_line(err)
    if any(sign in last for sign in _MEMORY_ERROR):
        return f"it needed more than {limits.memory_bytes >> 20} MiB of memory"
    return last or f"it ended with code {code}"


def _last_line(err: bytes) -> str:
    lines = err.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else ""


@contextmanager
def _empty_folder() -> Iterator[Path]:
    """A folder that only this process and the program can enter; it is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="agent-forge-box-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
