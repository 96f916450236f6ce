"""Which tier of the sandbox holds on this machine: each is tried, with a program that attempts to escape."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from agent_forge.agent.sandbox import OLDEST_LANDLOCK, TIERS, Limits, Tier, landlock_version, run_confined
from agent_forge.agent.seccomp import system_call_filter

_ESCAPES = """
import json, os, signal, socket, sys
secret, outside, port = {secret!r}, {outside!r}, {port}
done = []
def attempt(name, action):
    try:
        if action() is not False:
            done.append(name)
    except BaseException:
        pass
attempt("read a file", lambda: open(secret).read())
attempt("write a file", lambda: open(outside, "w").write("x"))
attempt("list the folder of a file", lambda: os.listdir(os.path.dirname(secret)))
attempt("connect", lambda: socket.create_connection(("127.0.0.1", port), 0.2))
attempt("start a process", os.fork)
attempt("run a program", lambda: os.execv("/bin/true", ["true"]))
attempt("signal its parent", lambda: os.kill(os.getppid(), 0))
attempt("read its environment", lambda: {marker!r} in str(dict(os.environ)))
attempt("read its parent's environment", lambda: open("/proc/%d/environ" % os.getppid()).read())
import datetime, decimal, math, random, re, statistics
open("own", "w").write("fine")
print(json.dumps([done, open("own").read() + str(sum(range(10)))]))
"""
_PROBE_LIMITS = Limits(cpu_seconds=5, wall_seconds=20.0)


@dataclass(frozen=True)
class Probe:
    """What a tier did with the program.

    Attributes:
        tier: which one.
        holds: whether the program got nowhere and was otherwise well.
        why: why it does not hold; empty if it does.
        layers: what held inside.
    """

    tier: Tier
    holds: bool
    why: str
    layers: tuple[str, ...] = ()


def best_tier() -> Tier | None:
    """The strictest tier that holds here, or None: then nothing may be run."""
    return next((found.tier for found in probe_tiers() if found.holds), None)


@cache
def probe_tiers() -> tuple[Probe, ...]:
    """Every tier, tried once in this process; the stricter ones first."""
    return tuple(probe(tier) for tier in TIERS)


def probe(tier: Tier) -> Probe:
    """Tries one tier."""
    missing = _missing(tier)
    if missing:
        return Probe(tier, False, missing)
    marker = secrets.token_hex(8)
    with tempfile.TemporaryDirectory() as place, socket.create_server(("127.0.0.1", 0)) as server:
        secret, outside = Path(place, "secret"), Path(place, "outside")
        secret.write_text("a secret", encoding="utf-8")
        values = {"secret": str(secret), "outside": str(outside), "port": server.getsockname()[1], "marker": marker}
        os.environ["AGENT_FORGE_PROBE"] = marker
        try:
            outcome = run_confined(_ESCAPES.format(**values), tier, _PROBE_LIMITS)
        finally:
            del os.environ["AGENT_FORGE_PROBE"]
        written = outside.exists()
    if outcome.error:
        return Probe(tier, False, outcome.error)
    done, fine = json.loads(outcome.output.splitlines()[-1])
    if done or written:
        return Probe(tier, False, f"a program in it could {', '.join(done) or 'write a file'}")
    if fine != "fine45":
        return Probe(tier, False, f"a harmless program gave {fine!r}")
    return Probe(tier, True, "", outcome.layers)


def _missing(tier: Tier) -> str:
    if system_call_filter() is None:
        return "there is no filter of system calls for this kind of machine"
    if tier == "bubblewrap":
        return "" if shutil.which("bwrap") else "bwrap is not installed"
    version = landlock_version()
    if version >= OLDEST_LANDLOCK:
        return ""
    return f"the kernel's Landlock has version {version}, and {OLDEST_LANDLOCK} is needed"
