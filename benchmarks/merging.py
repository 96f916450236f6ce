"""Merging against mergekit, taking turns in one run: the command line and inside a process, time and peak memory.

    AGENT_FORGE_PEERS_PYTHON=.peers-venv/bin/python python benchmarks/merging.py
        [--rounds 5] [--width 512] [--out benchmarks/results/merging.json]

Checkpoints are Llamas of random weights with a common trunk (width 512: 34M parameters; --width 768 --layers 12:
about 110M). "Command line" is a fresh process for each merge, so imports count; "in process" is a worker that
has imported everything and merges from disk to disk. The figure is the median over rounds of the ratio ours / theirs
within a round, with the smallest and largest beside it. Without the peers' environment only our own are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

PEERS = os.environ.get("AGENT_FORGE_PEERS_PYTHON", "")
SOURCE = Path(__file__).resolve().parents[1] / "src"
METHODS = ("linear", "slerp", "ties", "dare_ties")
# The peak that the system reports for a process includes the one that it was forked from: start it from a small one.
LAUNCHER = """
import os, sys, time
null = os.open(os.devnull, os.O_WRONLY)
start = time.perf_counter()
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status, usage = os.wait4(pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
OURS = """
import json, sys, time
from pathlib import Path
from agent_forge.phases.evomerge.merge_checkpoints import merge_yaml
import torch
for line in sys.stdin:
    recipe, out = json.loads(line)
    start = time.perf_counter()
    merge_yaml(Path(recipe), Path(out))
    print(json.dumps(time.perf_counter() - start), flush=True)
"""
THEIRS = """
import json, sys, time, yaml, logging
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
stdout, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    recipe, out = json.loads(line)
    start = time.perf_counter()
    config = MergeConfiguration.model_validate(yaml.safe_load(open(recipe)))
    run_merge(config, out, options=MergeOptions(copy_tokenizer=False, quiet=True))
    print(json.dumps(time.perf_counter() - start), file=stdout, flush=True)
"""


def checkpoints(folder: Path, width: int, layers: int) -> int:
    torch.manual_seed(0)
    heads = width // 64
    config = LlamaConfig(
        vocab_size=8192, hidden_size=width, intermediate_size=4 * width * 2 // 3 // 64 * 64, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "trunk", max_shard_size="100GB")
    for name in "abc":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=2e-3)
        model.save_pretrained(folder / name, max_shard_size="100GB")
    return sum(parameter.numel() for parameter in model.parameters())


def write_recipe(folder: Path, method: str) -> Path:
    names = "ab" if method == "slerp" else "abc"
    models = [{"model": str(folder / name), "parameters": {"weight": 0.33, "density": 0.5}} for name in names]
    recipe: dict[str, Any] = {"merge_method": method, "models": models}
    if method in ("linear", "slerp"):
        models[:] = [{"model": entry["model"], "parameters": {"weight": 0.5}} for entry in models]
    if method == "slerp":
        models[:] = [{"model": entry["model"]} for entry in models]
        recipe |= {"base_model": str(folder / "a"), "parameters": {"t": 0.5}}
    elif method != "linear":
        recipe["base_model"] = str(folder / "trunk")
    path = folder / f"{method}.yml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(who: str, recipe: Path, out: Path) -> list[str]:
    if who == "theirs":
        return [str(Path(PEERS).with_name("mergekit-yaml")), str(recipe), str(out), "--no-copy-tokenizer", "--quiet"]
    entry = "from agent_forge.cli.main import main; main()"
    return [sys.executable, "-c", entry, "merge", str(recipe), "--out", str(out)]


def run_alone(argv: list[str]) -> tuple[float, float]:
    """Wall-clock seconds and peak resident megabytes of a process."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "HF_HUB_OFFLINE": "1"}
    launched = subprocess.run(
        [sys.executable, "-S", "-c", LAUNCHER, *argv], env=environment, capture_output=True, text=True
    )
    if launched.returncode != 0:
        raise SystemExit(f"{argv} ended with {launched.returncode}: {launched.stderr[-2000:]}")
    seconds, kilobytes = launched.stdout.split()[-2:]
    return float(seconds), float(kilobytes) / 1024


class Worker:
    """A process that has imported everything and merges what it is told to."""

    def __init__(self, who: str) -> None:
        python, code = (sys.executable, OURS) if who == "ours" else (PEERS, THEIRS)
        environment = {**os.environ, "PYTHONPATH": str(SOURCE) if who == "ours" else "", "HF_HUB_OFFLINE": "1"}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self.process = subprocess.Popen(
            [python, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True,
        )  # fmt: skip

    def merge(self, recipe: Path, out: Path) -> float:
        """Seconds of one merge from disk to disk."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(recipe), str(out)]) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            self.errors.seek(0)
            raise SystemExit(f"the worker ended: {self.errors.read()[-2000:]}")
        return float(json.loads(answer))

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def summary(rows: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and the ratio ours / theirs within a round."""
    found: dict[str, Any] = {who: round(statistics.median(values), 4) for who, values in rows.items()}
    if len(rows) == 2:
        ratios = [ours / theirs for ours, theirs in zip(rows["ours"], rows["theirs"], strict=True)]
        found["ratio"] = [round(value, 3) for value in (statistics.median(ratios), min(ratios), max(ratios))]
    return found


def measure(folder: Path, rounds: int, methods: tuple[str, ...]) -> list[dict[str, Any]]:
    who = ["ours", "theirs"] if PEERS else ["ours"]
    rows = []
    workers = {name: Worker(name) for name in who}
    for method in methods:
        recipe = write_recipe(folder, method)
        inside: dict[str, list[float]] = {name: [] for name in who}
        alone: dict[str, list[float]] = {name: [] for name in who}
        memory: dict[str, list[float]] = {name: [] for name in who}
        for number in range(rounds + 1):
            for name in who if number % 2 else who[::-1]:
                out = folder / f"out-{name}"
                seconds = workers[name].merge(recipe, out)
                shutil.rmtree(out)
                wall, peak = run_alone(command(name, recipe, out)) if number else (0.0, 0.0)
                shutil.rmtree(out, ignore_errors=True)
                if number:  # round 0 warms up imports and the page cache
                    inside[name].append(seconds)
                    alone[name].append(wall)
                    memory[name].append(peak)
        row = {"method": method, "in_process_seconds": summary(inside), "command_line_seconds": summary(alone)}
        row["peak_megabytes"] = summary(memory)
        rows.append(row)
        print(json.dumps(row), flush=True)
    for worker in workers.values():
        worker.close()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    if not PEERS:
        print("AGENT_FORGE_PEERS_PYTHON is not set: no ratio to mergekit (make peers)")
    with tempfile.TemporaryDirectory() as folder:
        parameters = checkpoints(Path(folder), options.width, options.layers)
        print(f"{parameters / 1e6:.1f}M parameters, {options.rounds} rounds, torch threads {torch.get_num_threads()}")
        rows = measure(Path(folder), options.rounds, tuple(options.methods))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps({"parameters": parameters, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
