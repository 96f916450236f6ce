"""What runs inside the sandbox: gives up every right, says so, then runs the program it was given.

`agent_forge.agent.sandbox` starts a fresh interpreter with the text of this file, so it may import nothing but the
standard library. The job comes as JSON on standard input. Before the program's first line: limits on
processor time, memory, files and processes; namespaces of its own where the kernel grants them (no network); no
capabilities; Landlock, where asked for: no file outside the folder and the standard library; last the system-call
filter of `agent_forge.agent.seccomp`. Whatever of it was asked for and cannot be had ends the process before the
program is read (exit code 97). What holds is told in the first line of the output.
"""

import ast
import ctypes
import json
import os
import resource
import signal
import struct
import sys
import traceback

REFUSED = 97
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_DEATH_SIGNAL, _NO_NEW_PRIVS, _SECCOMP, _FILTER = 1, 38, 22, 2
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_WRITE_FILE, _REMOVE_FILE, _MAKE_FILE, _TRUNCATE = 1 << 1, 1 << 5, 1 << 8, 1 << 14
_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000  # user, network, IPC, host name
_CAPABILITY_VERSION = 0x20080522
_SELF = 0xFFFFFFFF


def main() -> int:
    """Confines this process, then runs the program of the job."""
    job = json.loads(sys.stdin.buffer.read())
    libc = ctypes.CDLL(None, use_errno=True)
    holds = []
    try:
        os.closerange(3, 4096)
        os.umask(0o077)
        os.chdir(job["folder"])
        _limit(job["limits"])
        if job["unshare"] and libc.unshare(_NAMESPACES) == 0:
            holds.append("namespaces")
        _drop_capabilities(libc)
        # set after the rights are gone, since giving them up clears it: this process ends with the one that started it
        _checked(libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0), "death signal")
        _checked(libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
        if job["landlock"]:
            _restrict_files(libc, job["landlock"], job["readable"], job["folder"])
            holds.append("landlock")
        program = _filter(job["filter"])
        _checked(libc.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0), "seccomp")
        holds += ["seccomp", "limits"]
    except (OSError, ValueError) as error:
        sys.stderr.write(f"the sandbox could not be set up: {error}\n")
        return REFUSED
    print(json.dumps(holds), flush=True)
    return _run(job["code"])


def _run(code: str) -> int:
    """Runs the program; the value of a last expression is printed, as at a prompt."""
    names = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        tree = ast.parse(code, "<program>")
        last = tree.body[-1] if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if last is not None:
            tree.body.pop()
        exec(compile(tree, "<program>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "<program>", "eval"), names)
            if value is not None:
                print(value)
        sys.stdout.flush()
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException as error:  # noqa: BLE001  whatever it is goes back to the model as one line
        sys.stderr.write(traceback.format_exception_only(type(error), error)[-1])
        return 1
    return 0


def _limit(limits: dict[str, int]) -> None:
    """The process can lower these, never raise them."""
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = value + 1 if name == "CPU" else value  # one more second to hear of the soft limit
        resource.setrlimit(kind, (value, hard))


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    header = struct.pack("<Ii", _CAPABILITY_VERSION, 0)
    _checked(libc.capset(header, bytes(24)), "capset")


def _restrict_files(libc: ctypes.CDLL, version: int, readable: list[str], folder: str) -> None:
    """Nothing may be read but ``readable``; in ``folder`` files may be made, written and removed."""
    rights = 13 + (version >= 2) + (version >= 3) + (version >= 5)
    network, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    attributes = struct.pack("<QQQ", (1 << rights) - 1, network, scoped)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = _checked(libc.syscall(_LANDLOCK_CREATE, attributes, size, 0), "landlock")
    own = _READ_FILE | _READ_DIR | _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | (_TRUNCATE if version >= 3 else 0)
    for path, allowed in [*((path, _READ_FILE | _READ_DIR) for path in readable), (folder, own)]:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            allowed &= ~_READ_DIR
        rule = struct.pack("<Qi", allowed, place)
        _checked(libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock for {path}")
        os.close(place)
    _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock")
    os.close(ruleset)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _filter(instructions: list[list[int]]) -> _Program:
    """The filter as the kernel reads it; the number of this process is only known here."""
    own = os.getpid()
    rows = [(code, yes, no, own if value == _SELF else value) for code, yes, no, value in instructions]
    packed = b"".join(struct.pack("<HBBI", *row) for row in rows)
    return _Program(len(rows), packed)


def _checked(value: int, what: str) -> int:
    if value < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return value


if __name__ == "__main__":
    sys.exit(main())
