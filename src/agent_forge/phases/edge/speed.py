"""First token, tokens a second, peak memory and size of an agent, each form in a process of its own.

A process of its own, because the peak of memory never falls again. ``python -m agent_forge.phases.edge.speed`` with one
JSON object on its command line is that process; it prints one JSON object.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent_forge.errors import PhaseFailed
from agent_forge.evaluation.decoding_speed import Step, cached_step, decoding_speed
from agent_forge.evaluation.processor import board, usable_cores
from agent_forge.phases.edge.targets import Speed

PROMPT_TOKENS = 128
WEIGHTS, PACKED = "model.safetensors", "packed.safetensors"
TORCH, JOINED, ONNX = "torch", "torch joined", "onnxruntime"
_TEXT = "Ann has 12 apples and gives 5 of them to Bo. How many are left? The old house stood by the river. "


def measure(folder: Path, runtime: str, *, threads: int = 0, new_tokens: int = 64, repeats: int = 5) -> Speed:
    """Measures one form of an agent in a process of its own, greedy, batch 1.

    Args:
        folder: a checkpoint, or for "onnxruntime" an export.
        runtime: "torch", "torch joined" or "onnxruntime".
        threads: of the processor; 0 = as many as there are.
        new_tokens: tokens after the first.
        repeats: medians are over so many.

    Raises:
        PhaseFailed: the process ended with an error, whose last line is told.
    """
    threads = threads or usable_cores()
    asked = {"folder": str(folder), "runtime": runtime, "threads": threads, "tokens": new_tokens, "repeats": repeats}
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(
        [sys.executable, "-m", "agent_forge.phases.edge.speed", json.dumps(asked)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PhaseFailed("edge", 0, f"measuring {runtime} of {folder} ended with code {done.returncode}: {last}")
    return Speed(**json.loads(done.stdout.strip().splitlines()[-1]))


def shipped_bytes(folder: Path) -> int:
    """Bytes of the files that a runtime needs: packed weights instead of plain ones where there are both."""
    left_out = {WEIGHTS} if (folder / PACKED).is_file() else set()
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file() and path.name not in left_out)


def prompt(folder: Path, length: int = PROMPT_TOKENS) -> list[int]:
    """``length`` tokens of plain text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(_TEXT, add_special_tokens=False).ids
    return (ids * (length // len(ids) + 1))[:length]


def measure_torch(folder: Path, threads: int, tokens: int, repeats: int, *, joined: bool) -> Speed:
    """As `measure`, in this process."""
    import torch

    from agent_forge.model.checkpoint import load_model

    torch.set_num_threads(threads)
    device = "cuda" if _has_small_card() else "cpu"
    model, _ = load_model(folder, device=device)
    ids = prompt(folder)
    if joined:
        from agent_forge.phases.edge.fusion import join_projections

        join_projections(model, torch.tensor([ids], device=device))
    step = cached_step(model)
    first, rate = decoding_speed(step, ids, tokens, repeats)
    peak = _peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated()
    prompt_operations, token_operations = _operations(step, ids)
    flops, bandwidth = machine_rates()
    return Speed(
        JOINED if joined else TORCH, device, platform.machine(), threads, first, rate, peak, shipped_bytes(folder),
        sum(p.numel() for p in model.parameters()), prompt_operations, token_operations, flops, bandwidth, _load(),
        board(),
    )  # fmt: skip


def measure_onnx(folder: Path, threads: int, tokens: int, repeats: int) -> Speed:
    """As `measure`, in this process, which then holds no torch."""
    from agent_forge.phases.edge.onnx_session import OnnxSession

    session = OnnxSession(folder, threads=threads)

    def step(given: Sequence[int], begins: bool) -> int:
        if begins:
            session.reset()
        return int(session.step(given).argmax())

    first, rate = decoding_speed(step, prompt(folder), tokens, repeats)
    peak = _peak_memory()
    flops, bandwidth = machine_rates()
    return Speed(
        ONNX, "cpu", platform.machine(), threads, first, rate, peak, shipped_bytes(folder),
        flops=flops, bytes_per_second=bandwidth, load=_load(), board=board(),
    )  # fmt: skip


def machine_rates() -> tuple[float, float]:
    """fp32 matrix products and copied bytes (read and written) a second of this machine; the best of several."""
    import numpy as np

    a = np.ones((768, 768), np.float32)
    source, copy = np.ones(1 << 23, np.float32), np.empty(1 << 23, np.float32)
    products, copies = [], []
    for _ in range(6):
        start = time.perf_counter()
        a @ a
        products.append(time.perf_counter() - start)
        start = time.perf_counter()
        np.copyto(copy, source)
        copies.append(time.perf_counter() - start)
    return 2 * 768**3 / min(products), 2 * source.nbytes / min(copies)


def _operations(step: Step, ids: Sequence[int]) -> tuple[int, int]:
    """Tensor operations of a first pass and of one more token."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Counter(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Counter.count += 1
            return function(*args, **(kwargs or {}))

    with Counter():
        token = step(ids, True)
        first = Counter.count
        step([token], False)
    return first, Counter.count - first


def _has_small_card() -> bool:
    """Whether there is a card of the class of the target; a larger one would say nothing about it."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory <= 8 << 30


def _peak_memory() -> int:
    """Bytes. ``ru_maxrss`` would count what the parent held when it started this process."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * next(int(line.split()[1]) for line in status.read_text().splitlines() if line[:6] == "VmHWM:")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _load() -> float:
    """Programs that want a core, for each core, over the last minute."""
    return os.getloadavg()[0] / (os.cpu_count() or 1)


def main(arguments: Sequence[str]) -> int:
    """Measures what the JSON object on the command line asks for."""
    asked = json.loads(arguments[0])
    options = Path(asked["folder"]), asked["threads"], asked["tokens"], asked["repeats"]
    if asked["runtime"] == ONNX:
        speed = measure_onnx(*options)
    else:
        speed = measure_torch(*options, joined=asked["runtime"] == JOINED)
    print(json.dumps(asdict(speed)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
