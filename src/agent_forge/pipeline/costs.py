"""What a phase costs, from the numbers in its configuration: seconds, memory and disk.

A training step of these small models is arithmetic (6 operations a parameter and token, over the
matmul speed measured here at the model's own width) and, mostly, passes over values: about 20 a
layer and unit of width and 3 a word of the vocabulary for each token, over the measured speed of an
element-wise operation. The constants below were fitted to processor time of runs of the presets
`smoke` and `demo` with one thread; expect ±50%, and more for a corpus whose documents are much
longer than those of the synthetic world. An earlier run of the same phase is the better witness:
`agent_forge.pipeline.estimate` asks it first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent_forge.config import ForgeConfig

TRAINING_PASSES = 11.0
"""Element-wise passes over every value of a token in a training step, backward and optimizer included."""
READING_PASSES = 4.5
WRITING_PASSES = 20.0
"""For each token of an answer: a token at a time, every call into the library costs."""
TERNARY_PASSES = 26.0
"""Teacher, student, rounding and distillation together."""
CALL_SECONDS = 0.006
"""A step's calls into the library, for each layer."""
START_SECONDS = 0.5
IMPORT_SECONDS = 5.0
"""The first process of a run imports torch and transformers for all."""
INGEST_BYTES_PER_SECOND = 2_000_000.0
TOKENIZE_BYTES_PER_SECOND = 1_300_000.0
CANDIDATE_SECONDS = 0.07
EXPORT_SECONDS = 25.0
"""Tracing the ONNX graph, its parity, and two measurements of speed in processes of their own."""
MERGE_SECONDS_PER_WEIGHT = 1.0e-7
CODEC_SECONDS_PER_WEIGHT = {"seedlm": 4e-6, "hyper": 2e-6, "gptq": 1e-6, "vptq": 6e-6, "uniform": 2e-7, "ternary": 2e-7}

THREAD_GAIN = 0.7
"""Twice the threads are 2 to this power as fast."""

PROCESS_BYTES = 390 * 2**20
"""A process that has imported torch and transformers."""
TRAINER_BYTES = 750 * 2**20
"""One that has also trained a few steps: kernels and their caches."""
DIALOGUE_TOKENS, TURNS, WRITTEN_AT_ONCE = 60, 10, 64
DOMAINS, DOCUMENT_TOKENS = 5, 110
"""The synthetic world's domains, and tokens of its usual document."""


@dataclass(frozen=True)
class Machine:
    """How fast, as measured here.

    Attributes:
        flops: floating-point operations per second of a matmul at the model's width.
        elements: values per second through an element-wise operation.
        cores: threads that a phase gets.
    """

    flops: float
    elements: float
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


def _values(config: ForgeConfig) -> float:
    """Values that one token makes on its way through the model."""
    model = config.cognate.model
    recursion = 1 + 0.25 * model.recursion_steps * model.micro_steps
    return 20 * model.num_hidden_layers * model.hidden_size * recursion + 3 * model.vocab_size


def _training(
    config: ForgeConfig, tokens: float, steps: float, parameters: int, machine: Machine, passes: float
) -> float:
    """Seconds of so many steps over so many tokens."""
    calls = steps * CALL_SECONDS * (1 + config.cognate.model.num_hidden_layers)
    moved = passes * _values(config) * tokens / machine.elements
    return calls + moved + passes / TRAINING_PASSES * 6 * parameters * tokens / machine.flops


def _reading(config: ForgeConfig, documents: float, length: int, parameters: int, machine: Machine) -> float:
    """Seconds to score documents of every domain."""
    tokens = documents * DOMAINS * min(DOCUMENT_TOKENS, length)
    return READING_PASSES * _values(config) * tokens / machine.elements + 2 * parameters * tokens / machine.flops


def _data(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    size = float(source_bytes(config))
    return Cost(IMPORT_SECONDS + size / INGEST_BYTES_PER_SECOND, PROCESS_BYTES + 6 * size, 0.3 * size)


def source_bytes(config: ForgeConfig) -> int:
    """Bytes of all sources; a hub source counts as the synthetic world does."""
    from agent_forge.data.sources import expand_all, lack_tools

    sources = expand_all(config.data.sources)
    total = int(config.data.tool_share * config.data.synthetic_bytes) if lack_tools(sources) else 0
    for source in sources:
        total += source.path.stat().st_size if source.path is not None else config.data.synthetic_bytes
    return total


def _cognate(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.cognate
    steps = float(part.steps)
    if part.specialize_from == "scratch":
        steps += 3 * part.trunk_fraction * part.steps
    length = max(stage.tokens for stage in part.lengths)
    documents = part.validation_documents * (part.steps / part.validate_every + 4 + 5) + 4 * part.test_documents
    seconds = START_SECONDS + source_bytes(config) / TOKENIZE_BYTES_PER_SECOND
    seconds += _training(config, steps * part.batch_tokens, steps, parameters, machine, TRAINING_PASSES)
    seconds += _reading(config, documents, length, parameters, machine)
    batch = part.micro_batch_tokens or part.batch_tokens
    memory = TRAINER_BYTES + 40 * parameters + _kept(config, batch)
    return Cost(seconds, memory, (16 + 20 * config.retention.checkpoints) * parameters)


def _kept(config: ForgeConfig, tokens: int) -> float:
    """Bytes that a training step holds at its peak; about three copies of every value, in 4 bytes."""
    return 12.0 * tokens * _values(config)


def _evomerge(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.evomerge
    # A quarter of each generation are elites, which are known already.
    evaluations = part.population * (part.generations + 1) * 0.75 * (1 + part.control_fraction)
    if part.strategy == "evolution+cma":
        evaluations += part.refinement_evaluations
    documents = evaluations * part.selection_documents + 2 * part.finalists * part.final_documents
    documents += 6 * (part.test_documents or 256)
    seconds = START_SECONDS + evaluations * (CANDIDATE_SECONDS + MERGE_SECONDS_PER_WEIGHT * parameters)
    seconds += _reading(config, documents, part.max_length, parameters, machine)
    return Cost(seconds, PROCESS_BYTES + 32 * parameters + 2**25, 4 * parameters)


def _bitnet(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.bitnet
    batch = part.batch_size * part.sequence_length
    steps = 1.5 * part.stages * part.stage_steps + part.recovery_steps
    tokens = steps * batch + part.calibration_samples * part.sequence_length
    documents = part.validation_documents * 1.5 * part.stages + 4 * part.test_documents
    seconds = START_SECONDS + _training(config, tokens, 2 * steps, parameters, machine, TERNARY_PASSES)
    seconds += _reading(config, documents, part.sequence_length, parameters, machine)
    memory = PROCESS_BYTES + 48 * parameters + 1.5 * _kept(config, batch)
    return Cost(seconds, memory, (4 + 20 * config.retention.checkpoints) * parameters)


def _forge(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.forge
    batch = part.batch_size * part.sequence_length
    steps = float(part.stages * part.stage_steps)
    # Assessment before a stage, watched questions after it, test questions at the end and when a level is passed.
    asked = part.stages * part.top_level * (part.assessment_questions + 0.5 * part.validation_questions)
    asked += 4 * part.top_level * part.test_questions + part.stages * part.own_answers
    asked += (part.stages / part.dream_every if part.dream_every else 0) * part.dream_questions
    written = asked * part.answer_tokens
    # Ordinary text is read by the model that came in, too: a third of a training pass.
    held = 1 + part.text_fraction / 3 * (part.hold_weight > 0)
    seconds = START_SECONDS + _training(config, steps * batch, steps, parameters, machine, 0.5 * held * TERNARY_PASSES)
    seconds += WRITING_PASSES * _values(config) * written / machine.elements + 2 * parameters * written / machine.flops
    seconds += _reading(config, 2 * part.test_documents, part.sequence_length, parameters, machine)
    memory = PROCESS_BYTES + 60 * parameters + 1.2 * _kept(config, batch)
    return Cost(seconds, memory, (4 + 20 * config.retention.checkpoints) * parameters)


def _baking(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.baking
    model = config.cognate.model
    cycles = part.iterations * (part.tools_steps + part.persona_steps) + part.recovery_steps
    rows = part.batch_size * part.max_questions * DIALOGUE_TOKENS / 2 + part.anchor_batch * part.anchor_tokens
    practice = part.practice_batch * part.sequence_length
    seconds = START_SECONDS + _training(
        config, part.practice_steps * practice, part.practice_steps, parameters, machine, TERNARY_PASSES / 2
    )
    seconds += _training(config, cycles * rows, 2 * cycles, parameters, machine, TERNARY_PASSES / 2)
    # Conversations are written token by token: a batch of 64 takes about as long as its calls.
    written = (2 * part.iterations + 1) * part.trajectories + 3 * part.test_questions
    written += part.selection_questions * (2 + part.iterations) + TURNS * part.stability_conversations
    turns = written * part.max_questions / WRITTEN_AT_ONCE
    seconds += turns * part.answer_tokens * CALL_SECONDS * (1 + model.num_hidden_layers)
    seconds += _reading(config, 4 * part.text_documents, part.sequence_length, parameters, machine)
    memory = TRAINER_BYTES + (40 + 4 * part.kept_checkpoints) * parameters + _kept(config, max(practice, int(rows)))
    return Cost(seconds, memory, (4 + (20 + 4 * part.kept_checkpoints) * config.retention.checkpoints) * parameters)


def _edge(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part, model = config.edge, config.cognate.model
    lessons = len(part.experts.skills)
    rows = part.experts.batch_size * part.experts.sequence_length
    seconds = (
        START_SECONDS
        + EXPORT_SECONDS
        + _training(
            config,
            lessons * part.experts.steps * rows,
            lessons * part.experts.steps,
            parameters,
            machine,
            TRAINING_PASSES,
        )
    )
    judged = (part.pruning.max_judgements + 1) * part.selection_questions + 2 * part.test_questions
    judged += 2 * part.bundle_questions
    drawn = part.experts.policy_steps * part.experts.policy_questions * part.experts.policy_samples
    designs = part.design.evaluations * part.design.questions * (1 + part.design.control)
    turns = (2 * judged + lessons * (drawn + 4 * part.experts.test_documents) + 2 * designs) / WRITTEN_AT_ONCE
    seconds += turns * part.answer_tokens * CALL_SECONDS * (1 + model.num_hidden_layers)
    seconds += _reading(
        config, (part.pruning.max_judgements + 3) * DOMAINS * part.text_documents, DOCUMENT_TOKENS, parameters, machine
    )
    return Cost(seconds, TRAINER_BYTES + 80 * parameters, 12 * parameters)


def _compression(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.compression
    codecs = sum(CODEC_SECONDS_PER_WEIGHT.get(codec, 0.0) for codec in part.codecs) * parameters
    passes = 6 * part.max_allocation_rounds + 14 + (16 if part.ladder else 0)
    documents = passes * part.evaluation_documents + 3 * part.calibration_documents
    seconds = START_SECONDS + codecs * 2 / machine.cores
    seconds += _reading(config, documents, part.max_length, parameters, machine)
    return Cost(seconds, PROCESS_BYTES + 60 * parameters + 2**25, parameters)


def _quietstar(config: ForgeConfig, parameters: int, machine: Machine) -> Cost:
    part = config.quietstar
    batch = part.batch_size * part.sequence_length
    places = part.places or part.quiet_length
    # text and thoughts in one pass with gradients, and about half as much to draw them
    quiet = part.quiet_batch_size * part.samples * 1.5
    quiet *= part.quiet_length + places * (part.thought_length + part.talk_tokens + 1)
    tokens = part.habit_steps * batch * (1 + part.ordinary_fraction / 3) + part.quiet_steps * quiet
    steps = part.habit_steps * 1.3 + part.quiet_steps * (2 + part.thought_length / 2)
    # an answer is written token by token in large batches: four conditions and the thoughts
    asked = part.test_tasks * (DOCUMENT_TOKENS + 5 * part.thought_budget / 2)
    seconds = START_SECONDS + _training(config, tokens, steps, parameters, machine, TRAINING_PASSES)
    seconds += _reading(config, 2 * part.test_documents, part.sequence_length, parameters, machine)
    seconds += (
        READING_PASSES * _values(config) * asked / machine.elements + source_bytes(config) / TOKENIZE_BYTES_PER_SECOND
    )
    memory = TRAINER_BYTES + 60 * parameters + 1.3 * _kept(config, max(batch, int(quiet)))
    return Cost(seconds, memory, (4 + 20 * config.retention.checkpoints) * parameters)


_COSTS: Mapping[str, Callable[[ForgeConfig, int, Machine], Cost]] = {
    "data": _data,
    "cognate": _cognate,
    "evomerge": _evomerge,
    "quietstar": _quietstar,
    "bitnet": _bitnet,
    "forge": _forge,
    "baking": _baking,
    "edge": _edge,
    "compression": _compression,
}


def measure(width: int, inner: int, tokens: int, device: str, threads: int, precision: str) -> Machine:
    """Measures a matmul and an element-wise operation on one thread, about 0.3 s in all.

    One thread, because a busy machine makes threads wait for each other and would tell nothing about a quiet
    one; more threads are counted with the usual loss.

    Args:
        width: of the model.
        inner: of its SwiGLU.
        tokens: rows, as in a micro-batch.
        device: "cpu" or "cuda".
        threads: CPU threads of a phase.
        precision: as configured (auto, bf16 or fp32).
    """
    import torch

    from agent_forge.optim.precision import training_precision

    dtype: Any = training_precision(precision, device)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = torch.ones(min(tokens, 4096), width, device=device, dtype=dtype)
        matrix = torch.ones(width, inner, device=device, dtype=dtype)
        values = torch.ones(2**20, device=device)
        products = _per_second(lambda: rows @ matrix, 0.15)
        passes = _per_second(lambda: torch.nn.functional.silu(values), 0.15)
    finally:
        torch.set_num_threads(before)
    gain = threads**THREAD_GAIN if device == "cpu" else 1.0
    return Machine(2.0 * rows.shape[0] * width * inner * products * gain, values.numel() * passes * gain, threads)


def _per_second(work: Callable[[], Any], seconds: float) -> float:
    """How often something can be done in a second on a quiet machine: the fastest tenth of the calls counts."""
    work()
    taken: list[float] = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline or not taken:
        start = time.perf_counter()
        float(work().flatten()[0])  # waits for a GPU
        taken.append(time.perf_counter() - start)
    return 1 / sorted(taken)[len(taken) // 10]
