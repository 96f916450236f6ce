"""Kills the whole runner at random moments of `smoke`, resumes it, and compares every digest with an unbroken run.

    python benchmarks/kill_resume.py --kills 20 --threads 1

Each round begins in a fresh home. The moment is drawn (seeded) from the time that the unbroken run took, and the
signal is SIGKILL to the runner's process: its children must notice by themselves. A round counts as equal when
`resume` exits 0, every handoff of every phase has the digest of the unbroken run, and `verify` finds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
COMMAND = [sys.executable, "-m", "agent_forge.cli.main"]
SESSION = "killed"


@dataclass(frozen=True)
class Round:
    """One kill and one resume."""

    moment: float
    died_in: str
    resume_seconds: float
    resumed_from: str
    equal: bool
    clean: bool


def forge(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment(), check=False
    )


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE)}


def run_arguments(home: Path, options: argparse.Namespace) -> list[str]:
    settings = [text for setting in options.set for text in ("--set", setting)]
    preset = ["run", "--preset", options.preset, "--set", f"threads={options.threads}"]
    return [*preset, *settings, "--home", str(home), "--session", SESSION]


def digests(home: Path) -> dict[str, Any]:
    """Digest of every handoff of every finished phase."""
    detail = json.loads(forge("sessions", "show", SESSION, "--home", home, "--json").stdout)
    return {
        f"{run['phase']}/{name}": found
        for run in detail["runs"]
        if run["status"] in ("completed", "reused")
        for name, found in run["outputs"].items()
    }


def one_round(home: Path, moment: float, wanted: dict[str, Any], options: argparse.Namespace) -> Round:
    log = home.parent / "killed.log"
    with log.open("w") as stream:
        runner = subprocess.Popen(
            [*COMMAND, *run_arguments(home, options)], stdout=stream, stderr=stream, env=environment()
        )
        try:
            runner.wait(moment)
        except subprocess.TimeoutExpired:
            runner.kill()
            runner.wait()
    started = [line for line in log.read_text().splitlines() if line.endswith(": started")]
    died_in = started[-1].split("] ")[1].removesuffix(": started") if started else "before the first phase"
    if runner.returncode == 0:
        died_in = "after the end"
    begin = time.monotonic()
    known = (home / "registry.db").exists() and forge("sessions", "show", SESSION, "--home", home).returncode == 0
    again = forge("resume", SESSION, "--home", home) if known else forge(*run_arguments(home, options))
    seconds = time.monotonic() - begin
    steps = [line.split("goes on from ")[1] for line in again.stderr.splitlines() if "goes on from " in line]
    equal = again.returncode == 0 and digests(home) == wanted
    if again.returncode != 0:
        print(again.stderr[-2000:], file=sys.stderr)
    clean = forge("verify", "--home", home).returncode == 0
    return Round(moment, died_in, seconds, ", ".join(steps) or "-", equal, clean)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], help="key=value for the run; repeatable")
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        begin = time.monotonic()
        unbroken = forge(*run_arguments(home, options))
        whole = time.monotonic() - begin
        if unbroken.returncode != 0:
            print(unbroken.stderr, file=sys.stderr)
            return unbroken.returncode
        wanted = digests(home)
        print(f"unbroken: {whole:.1f} s, {sum(map(len, wanted.values()))} artifacts", flush=True)
        print("| kill | after, s | in phase | resumed from | resume, s | digests | verify |")
        print("|---|---|---|---|---|---|---|")
        rounds: list[Round] = []
        for number in range(1, options.kills + 1):
            shutil.rmtree(home)
            found = one_round(home, moments.uniform(0.5, whole), wanted, options)
            rounds.append(found)
            digest, state = "equal" if found.equal else "DIFFER", "clean" if found.clean else "DAMAGED"
            print(
                f"| {number} | {found.moment:.1f} | {found.died_in} | {found.resumed_from} "
                f"| {found.resume_seconds:.1f} | {digest} | {state} |",
                flush=True,
            )
        good = sum(found.equal and found.clean for found in rounds)
        print(f"{good} of {len(rounds)} equal and clean")
    return 0 if good == len(rounds) else 3


if __name__ == "__main__":
    sys.exit(main())
