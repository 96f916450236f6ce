"""The machines that an agent is meant for, and whether it fits them.

Where the machine at hand is the target, figures are measured there. Where it is not they are estimated, and say so and
how: a processor's times are those measured here, times the worse of two ratios (matrix products a second, bytes a
second); a card's are the time to launch its operations plus the time to read the weights and to multiply.

Bounds: 50 ms to the first token of a prompt of 128, 100 tokens a second, 100 MB and 6 GB of a card are the
specification's. It names no other targets, so the rest is ours: what still feels immediate on that machine, and what
such a machine has to spare.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

MB, GB = 10**6, 10**9
LAUNCH_SECONDS = 10e-6
"""One operation of eager torch on a card; 5 to 10 µs are usual."""
CONTEXT_BYTES = 500 * MB
"""What a process takes on a card before it holds anything."""
PAGE_BYTES = 4_100_000
"""The page and its runtime, gzipped, as `agent-forge export --to web` writes them beside the agent."""
Basis: TypeAlias = Literal["measured", "estimated"]


@dataclass(frozen=True)
class Target:
    """A machine, and what an agent may take of it.

    Attributes:
        name: as the command line calls it.
        machine: in words.
        kind: "cpu", "cuda" or "browser".
        architecture: of the processor; "" = any.
        cores: that the agent may use.
        memory_bytes: of the process (of the card for "cuda"), at most.
        first_token_seconds: after a prompt of 128 tokens, batch 1, at most.
        tokens_per_second: after that, at least.
        size_bytes: of the files that are shipped, at most.
        flops: fp32 matrix products a second, for estimates.
        bytes_per_second: from memory, for estimates.
        boards: beginnings of what a device tree calls such machines; () = any board is one.
    """

    name: str
    machine: str
    kind: Literal["cpu", "cuda", "browser"]
    architecture: str
    cores: int
    memory_bytes: int
    first_token_seconds: float
    tokens_per_second: float
    size_bytes: int
    flops: float
    bytes_per_second: float
    boards: tuple[str, ...] = ()


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("cpu-x86", "PC or server, 4 cores with AVX2", "cpu", "x86_64", 4, 2 * GB, 0.05, 100, 100 * MB,
               200e9, 20e9),
        # Raspberry Pi 4: 4 × 1.5 GHz × 8 = 48 GFLOP/s at most, of which matrix products reach about half; 5.5 GB/s in
        # the STREAM benchmark.
        Target("cpu-arm64", "Raspberry Pi 4 class, 4 cores", "cpu", "aarch64", 4, 1 * GB, 0.5, 20, 100 * MB,
               24e9, 5.5e9, ("Raspberry Pi 4", "Raspberry Pi Compute Module 4")),
        # GeForce GTX 1660: 5.0 TFLOP/s, 192 GB/s, 6 GB.
        Target("gpu-6gb", "card with 6 GB, GTX 1660 class", "cuda", "", 1, 6 * GB, 0.05, 100, 100 * MB, 5.0e12, 192e9),
        # One thread of WebAssembly with 128-bit vectors and no fused multiply-add.
        Target("browser", "page in a laptop's browser, one thread of WebAssembly", "browser", "", 1, 1 * GB, 0.5, 20,
               50 * MB, 10e9, 10e9),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Speed:
    """One form of an agent, measured in a process of its own.

    Attributes:
        runtime: "torch", "torch joined" (projections joined), "onnxruntime" or "onnxruntime-web".
        kind: of machine, as in `Target`.
        architecture: of the processor.
        cores: threads that were used, of which a target may have fewer.
        first_token_seconds: median.
        tokens_per_second: median.
        memory_bytes: peak of the process.
        size_bytes: of the files that this runtime needs.
        parameters: of the model; 0 = not known.
        operations_prompt: tensor operations of the first pass; 0 = not counted.
        operations_token: of one more token.
        flops: fp32 matrix products a second of this machine, with these threads; 0 = not measured.
        bytes_per_second: copied in its memory.
        load: programs that wanted a core, for each core, when it was measured: over 1 the times say too much.
        board: what the device tree calls the machine; "" = it has none.
    """

    runtime: str
    kind: str
    architecture: str
    cores: int
    first_token_seconds: float
    tokens_per_second: float
    memory_bytes: int
    size_bytes: int
    parameters: int = 0
    operations_prompt: int = 0
    operations_token: int = 0
    flops: float = 0.0
    bytes_per_second: float = 0.0
    load: float = 0.0
    board: str = ""


@dataclass(frozen=True)
class Verdict:
    """One bound of a target: what was found, and whether it holds."""

    metric: str
    value: float
    bound: float
    met: bool
    basis: Basis
    how: str


@dataclass(frozen=True)
class Fit:
    """How an agent fits one target.

    Attributes:
        target: its name.
        runtime: the form that fits best.
        met: every bound holds.
        measured: every figure was measured on such a machine.
        verdicts: one for each bound.
    """

    target: str
    runtime: str
    met: bool
    measured: bool
    verdicts: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "verdicts": [asdict(verdict) for verdict in self.verdicts]}


def fit(target: Target, speeds: Sequence[Speed]) -> Fit:
    """How the best of several forms of an agent fits ``target``.

    Args:
        target: one of `TARGETS`.
        speeds: measurements of the forms, on any machines. One measured on such a machine goes before estimates.

    Raises:
        ValueError: nothing was measured, or an estimate lacks the rates of the machine that was measured.
    """
    if not speeds:
        raise ValueError(f"nothing was measured, so {target.name} cannot be judged")
    candidates = [speed for speed in speeds if is_such(target, speed)] or [s for s in speeds if s.kind == "cpu"]
    if not candidates:
        raise ValueError(f"estimates for {target.name} need a measurement on a processor")
    if target.kind == "browser":
        # A page runs onnxruntime-web, so what onnxruntime does here is nearer to it than torch.
        candidates = [s for s in candidates if s.runtime.startswith("onnx")] or candidates
    if target.kind == "cuda":
        candidates = [s for s in candidates if s.runtime.startswith("torch")] or candidates
    fits = [_fit(target, speed) for speed in candidates]
    return max(fits, key=lambda f: (f.met, sum(v.met for v in f.verdicts), -f.verdicts[0].value))


def is_such(target: Target, speed: Speed) -> bool:
    """Whether ``speed`` was measured on such a machine: its architecture and board, with no more cores than it has."""
    if speed.kind != target.kind:
        return False
    if target.kind != "cpu":
        return True
    known = not target.boards or speed.board.startswith(target.boards)
    return known and speed.architecture == target.architecture and speed.cores <= target.cores


def _fit(target: Target, speed: Speed) -> Fit:
    first, rate, memory = speed.first_token_seconds, speed.tokens_per_second, speed.memory_bytes
    basis: Basis = "measured"
    how = f"with {_threads(speed)}"
    if speed.cores < target.cores:
        how += f" of the {target.cores} that the target has"
    how_memory = "peak of the process"
    size: tuple[float, Basis, str] = speed.size_bytes, "measured", "bytes of the files"
    if not is_such(target, speed):
        basis = "estimated"
        if target.kind == "cuda":
            first, rate, memory, how, how_memory = _on_card(target, speed)
        else:
            ratio, how = _ratio(target, speed)
            first, rate = first * ratio, rate / ratio
            how_memory = f"peak of the process on {speed.architecture}"
        if target.kind == "browser":
            told = f"the files of {speed.runtime}, and {PAGE_BYTES / MB:.1f} MB of page and runtime"
            size = speed.size_bytes + PAGE_BYTES, "estimated", told
    rows = (
        _verdict("first_token_seconds", first, target.first_token_seconds, basis, how),
        _verdict("tokens_per_second", rate, target.tokens_per_second, basis, how),
        _verdict("memory_bytes", memory, target.memory_bytes, basis, how_memory),
        _verdict("size_bytes", size[0], target.size_bytes, *size[1:]),
    )
    return Fit(target.name, speed.runtime, all(row.met for row in rows), basis == "measured", rows)


def _threads(speed: Speed) -> str:
    return f"{speed.cores} thread{'s' if speed.cores != 1 else ''}"


def _verdict(metric: str, value: float, bound: float, basis: Basis, how: str) -> Verdict:
    """``not (…)``, so that a figure that is no number is missed."""
    met = value >= bound if metric == "tokens_per_second" else value <= bound
    return Verdict(metric, value, bound, met, basis, how)


def _ratio(target: Target, speed: Speed) -> tuple[float, str]:
    if not speed.flops > 0 or not speed.bytes_per_second > 0:
        raise ValueError(
            f"{speed.runtime}: the rates of the machine were not measured, so {target.name} has no estimate"
        )
    compute, memory = speed.flops / target.flops, speed.bytes_per_second / target.bytes_per_second
    how = (
        f"measured here on {speed.architecture} with {_threads(speed)}, times {max(compute, memory):.1f}: matrix "
        f"products {speed.flops / 1e9:.0f} to {target.flops / 1e9:.0f} GFLOP/s, memory "
        f"{speed.bytes_per_second / 1e9:.1f} to {target.bytes_per_second / 1e9:.1f} GB/s, the worse counts"
    )
    return max(compute, memory), how


def _on_card(target: Target, speed: Speed) -> tuple[float, float, int, str, str]:
    if not speed.parameters or not speed.operations_token:
        raise ValueError(f"{speed.runtime}: operations were not counted, so {target.name} has no estimate")
    weights = 4 * speed.parameters
    read = weights / target.bytes_per_second
    first = speed.operations_prompt * LAUNCH_SECONDS + read + 2 * 128 * speed.parameters / target.flops
    rate = 1 / (speed.operations_token * LAUNCH_SECONDS + read)
    how = (
        f"{speed.operations_prompt} and {speed.operations_token} operations of {LAUNCH_SECONDS * 1e6:.0f} µs, "
        f"fp32 weights at {target.bytes_per_second / 1e9:.0f} GB/s, {target.flops / 1e12:.1f} TFLOP/s"
    )
    return first, rate, CONTEXT_BYTES + 2 * weights, how, "weights twice, and what a process takes"
