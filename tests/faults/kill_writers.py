"""Kills two writers of one home again and again, then checks that nothing which was acknowledged is lost.

A program of its own: it forks, which is only safe in a process without threads.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from agent_forge.storage.home import Home
from agent_forge.storage.verify import verify


def write_for_ever(path: Path, acknowledged: int, seed: int) -> None:
    """Commits phase runs one after the other; each is acknowledged in a file once it is committed."""
    dice = random.Random(seed)
    home = Home.open(path, reserve_bytes=0)
    session = f"s{seed}"
    home.registry.create_session(session, {})
    source = home.session_folder(session) / "source"
    while True:
        source.mkdir(exist_ok=True)
        (source / "weights").write_bytes(dice.randbytes(dice.randrange(1, 50_000)))
        (source / "config").write_bytes(b"{}")
        how = dice.choice(["copy", "move"])
        artifact = home.blobs.put_folder("checkpoint", source, {}, how=how)  # type: ignore[arg-type]
        phase_run = home.registry.begin_phase_run(session, "cognate", artifact.digest)
        home.registry.commit_phase_run(phase_run, {"model": [artifact]}, {"x": dice.random()})
        os.write(acknowledged, (artifact.digest + "\n").encode())


def main(path: Path, kills: int) -> dict[str, object]:
    """Runs the writers and gives the figures as a dict."""
    dice = random.Random(0)
    Home.open(path).close()
    log = path.parent / "acknowledged"
    acknowledged = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for kill in range(0, kills, 2):
        children = []
        for seed in (kill, kill + 1):
            child = os.fork()
            if child == 0:
                try:
                    write_for_ever(path, acknowledged, seed)
                finally:
                    os._exit(70)  # a writer that ends by itself has failed; its traceback is on stderr
            children.append(child)
        # Kill in the midst of work: after some commits, at a random moment of the next one.
        enough, deadline = os.fstat(acknowledged).st_size + 65 * dice.randrange(1, 4), time.monotonic() + 10
        while os.fstat(acknowledged).st_size < enough and time.monotonic() < deadline:
            time.sleep(0.001)
        for child in children:
            time.sleep(dice.uniform(0, 0.01))
            os.kill(child, signal.SIGKILL)
        for child in children:
            _, status = os.waitpid(child, 0)
            if not os.WIFSIGNALED(status):
                raise SystemExit(f"a writer ended by itself with status {status}")
    os.close(acknowledged)
    with Home.open(path, reserve_bytes=0) as home:
        report = verify(home)
        known = {row.digest for row in home.registry.artifacts(limit=10**6)}
        lost = [digest for digest in log.read_text().split() if digest not in known]
    return {
        "kills": kills, "acknowledged": len(log.read_text().split()), "lost": len(lost),
        "missing": len(report.missing), "corrupt": len(report.corrupt), "integrity": report.integrity,
        "swept": len(home.swept), "temporary": len(report.temporary), "orphan_blobs": len(report.orphan_blobs),
        "artifacts": report.artifacts,
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
