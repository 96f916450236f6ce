"""What a phase costs, from the numbers in its configuration: seconds, memory and disk.

Time is arithmetic divided by speed: 6 operations a parameter and token for training, 2 for reading,
over the matmul speed measured on this machine at the model's own width, times an overhead for all
that is no matmul. The overheads were fitted to runs of the presets `smoke` and `demo` on 2 cores;
elsewhere expect ±50%. They say nothing about a corpus whose documents are much longer or shorter
than those of the synthetic world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_forge.config import ForgeConfig

# Fitted constants; see docs/log.md for the runs behind them.
TRAINING_OVERHEAD = 3.0
READING_OVERHEAD = 3.0
TERNARY_OVERHEAD = 4.0
START_SECONDS = 2.0
INGEST_BYTES_PER_SECOND = 400_000.0
MERGE_SECONDS_PER_WEIGHT = 1.0e-7
CODEC_SECONDS_PER_WEIGHT = {"seedlm": 4e-6, "hyper": 2e-6, "gptq": 1e-6, "vptq": 6e-6, "uniform": 2e-7, "ternary": 2e-7}

PROCESS_BYTES = 450 * 2**20
"""A process that has imported torch and transformers."""
DOMAINS, DOCUMENT_TOKENS = 6, 120
"""The synthetic world's domains, and tokens of its usual document."""


@dataclass(frozen=True)
class Machine:
    """How fast: floating-point operations per second of a matmul at the model's width, and cores."""

    flops: float
    cores: int


@dataclass(frozen=True)
class Cost:
    """What a phase is expected to need."""

    seconds: float
    memory_bytes: float
    disk_bytes: float


def cost(phase: str, config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    """The cost of a phase.

    Args:
        phase: its name, or ``data``.
        config: the whole configuration.
        parameters: of the model.
        machine: where it runs.

    Raises:
        KeyError: nothing is known about that phase.
    """
    return _COSTS[phase](config, parameters, machine)


def _reading(documents: float, length: int, parameters: int, machine: Machine) -> float:
    """Seconds to score documents of every domain."""
    tokens = documents * DOMAINS * min(DOCUMENT_TOKENS, length)
    return READING_OVERHEAD * 2 * parameters * tokens / machine.flops


def _data(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    size = float(source_bytes(config))
    return Cost(START_SECONDS + size / INGEST_BYTES_PER_SECOND, PROCESS_BYTES + 12 * size, 0.5 * size)


def source_bytes(config: ForgeConfig) -> int:
    """Bytes of all sources; a hub source counts as the synthetic world does."""
    from agent_forge.data.sources import expand_all

    total = 0
    for source in expand_all(config.data.sources):
        total += source.path.stat().st_size if source.path is not None else config.data.synthetic_bytes
    return total


def _cognate(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.cognate
    model = part.model
    tokens = part.steps * part.batch_tokens
    if part.specialize_from == "scratch":
        tokens += round(3 * part.trunk_fraction * part.steps) * part.batch_tokens
    length = max(stage.tokens for stage in part.lengths)
    # Attention reads up to a window for every token, on top of what the parameters cost.
    attention = 6 * model.num_hidden_layers * model.hidden_size * min(length, model.sliding_window)
    recursion = 1 + 0.25 * model.recursion_steps * model.micro_steps
    training = TRAINING_OVERHEAD * recursion * (6 * parameters + attention) * tokens / machine.flops
    documents = part.validation_documents * (part.steps / part.validate_every + 4 + 5) + 4 * part.test_documents
    seconds = START_SECONDS + training + _reading(documents, length, parameters, machine)
    batch = part.micro_batch_tokens or part.batch_tokens
    memory = PROCESS_BYTES + 40 * parameters + _activations(config, batch)
    return Cost(seconds, memory, (16 + 20 * config.retention.checkpoints) * parameters)


def _activations(config: ForgeConfig, tokens: int) -> float:
    """Bytes that a training step keeps for its backward pass: per token, 20 values a width and layer, 3 a word."""
    model = config.cognate.model
    return 4.0 * tokens * (20 * model.num_hidden_layers * model.hidden_size + 3 * model.vocab_size)


def _evomerge(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.evomerge
    evaluations = part.population * (part.generations + 1) * 0.75 * (1 + part.control_fraction)
    if part.strategy == "evolution+cma":
        evaluations += part.refinement_evaluations
    documents = evaluations * part.selection_documents + part.finalists * part.final_documents
    documents += 6 * (part.test_documents or 256)
    seconds = START_SECONDS + evaluations * MERGE_SECONDS_PER_WEIGHT * parameters
    seconds += _reading(documents, part.max_length, parameters, machine)
    return Cost(seconds, PROCESS_BYTES + 32 * parameters + 2**26, 4 * parameters)


def _bitnet(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.bitnet
    batch = part.batch_size * part.sequence_length
    tokens = (1.5 * part.stages * part.stage_steps + part.recovery_steps) * batch
    tokens += part.calibration_samples * part.sequence_length
    training = TERNARY_OVERHEAD * 8 * parameters * tokens / machine.flops
    documents = part.validation_documents * 1.5 * part.stages + 4 * part.test_documents
    seconds = START_SECONDS + training + _reading(documents, part.sequence_length, parameters, machine)
    memory = PROCESS_BYTES + 48 * parameters + 1.5 * _activations(config, batch)
    return Cost(seconds, memory, (4 + 20 * config.retention.checkpoints) * parameters)


def _compression(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.compression
    codecs = sum(CODEC_SECONDS_PER_WEIGHT.get(codec, 0.0) for codec in part.codecs) * parameters
    codecs *= 2 / machine.cores
    passes = 4 * part.max_allocation_rounds + 10 + (12 if part.ladder else 0)
    documents = passes * part.evaluation_documents + 3 * part.calibration_documents
    seconds = START_SECONDS + codecs + _reading(documents, part.max_length, parameters, machine)
    return Cost(seconds, PROCESS_BYTES + 60 * parameters + 2**27, parameters)


_COSTS: Mapping[str, Callable[[ForgeConfig, int, Machine], Cost]] = {
    "data": _data,
    "cognate": _cognate,
    "evomerge": _evomerge,
    "bitnet": _bitnet,
    "compression": _compression,
}


def measure(width: int, inner: int, tokens: int, device: str, threads: int, precision: str) -> Machine:
    """Measures the matmul of a training step for about 0.3 s.

    Args:
        width: of the model.
        inner: of its SwiGLU.
        tokens: rows, as in a micro-batch.
        device: "cpu" or "cuda".
        threads: CPU threads of a phase.
        precision: as configured (auto, bf16 or fp32).
    """
    import time

    import torch

    from agent_forge.optim.precision import training_precision

    dtype: Any = training_precision(precision, device)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = torch.ones(min(tokens, 4096), width, device=device, dtype=dtype)
        matrix = torch.ones(width, inner, device=device, dtype=dtype)
        rows @ matrix
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < 0.3:
            product = rows @ matrix
            count += 1
        float(product[0, 0])  # waits for a GPU
        seconds = time.perf_counter() - start
    finally:
        torch.set_num_threads(before)
    return Machine(2.0 * rows.shape[0] * width * inner * count / seconds, threads)
