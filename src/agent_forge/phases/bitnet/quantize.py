"""Quantization of one checkpoint folder on its own, outside a pipeline: `agent-forge quantize MODEL --out DIR`.

Without text the layers are calibrated by their weights alone and nothing is trained. That gives a correct ternary
checkpoint, but not a good one: three levels cost a trained model most of what it knows until it is trained again.
With text, ``recovery_steps`` of training against the full-precision model win that back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, pack
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import TERNARY
from agent_forge.optim import schedules
from agent_forge.optim.precision import training_precision
from agent_forge.phases.bitnet.calibration import calibrate
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.recovery import Recovery, accepted, warm_up
from agent_forge.phases.bitnet.selection import Selection, select
from agent_forge.phases.bitnet.ternarization import Sizes, finish, make_student, save_ternary, set_levels

_CALIBRATION_BATCHES = 32


def quantize(
    model_folder: Path | str,
    out: Path | str,
    *,
    texts: Sequence[str] = (),
    recovery_steps: int = 0,
    config: BitnetConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    observe: Callable[[int, Mapping[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Writes a ternary checkpoint folder (plain, packed, ``ternary.json``) of any causal language model.

    Args:
        model_folder: a folder that `AutoModelForCausalLM` loads.
        out: folder to write; made if missing, must be empty.
        texts: calibration and training text; empty = data-free.
        recovery_steps: training steps; needs text.
        config: group sizes, bits, rates and window sizes; stages are not used here.
        seed: of the order of windows.
        device: to compute on.
        observe: told about every training step.

    Returns:
        Facts: sizes in bytes, compression ratio, number of ternary layers, mean relative error.

    Raises:
        ConfigError: ``out`` holds something, or training without text.
        HandoffError: the folder is no sound checkpoint.
    """
    settings, out = config or BitnetConfig(), Path(out)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; a quantized model is written into a folder of its own")
    if recovery_steps and not texts:
        raise ConfigError(f"{recovery_steps} recovery steps need text to train on; give some, or 0 steps")
    teacher, tokenizer = load_model(model_folder, device=device)
    teacher.requires_grad_(False)
    batch = _windows(texts, tokenizer, settings, seed, device) if texts else None
    calibration = calibrate(
        teacher,
        select(teacher, tokenizer).linears,
        (accepted(teacher, batch(step)) for step in range(_CALIBRATION_BATCHES)) if batch else (),
        group_size=settings.group_size,
        finer_group_size=settings.finer_group_size,
        finer_above=settings.finer_above,
    )
    student, selection = make_student(teacher, tokenizer, calibration, activation_bits=settings.activation_bits)
    levels = dict.fromkeys(selection.linears, TERNARY)
    set_levels(student, levels)
    if batch is not None and recovery_steps:
        _recover(student, teacher, selection, settings, batch, recovery_steps, device, observe)
    finish(student, selection, levels, embedding_bits=settings.embedding_bits)
    errors = [found.sensitivity for found in calibration.values()]
    facts = {
        "phase": "bitnet",
        "config": settings.model_dump(mode="json"),
        "seed": seed,
        "recovery_steps": recovery_steps,
        "ternary_layers": len(levels),
        "mean_relative_error": sum(errors) / len(errors),
    }
    sizes: Sizes = save_ternary(student, tokenizer, out, selection, facts)
    return {
        **facts,
        "plain_bytes": sizes.plain_bytes,
        "packed_bytes": sizes.packed_bytes,
        "compression_ratio": sizes.compression_ratio,
    }


def _windows(
    texts: Sequence[str], tokenizer: Any, settings: BitnetConfig, seed: int, device: str
) -> Callable[[int], dict[str, Tensor]]:
    batches = Batches(
        {"text": pack([Document(text) for text in texts], tokenizer)},
        {"text": 1.0},
        sequence_length=settings.sequence_length,
        batch_size=settings.batch_size,
        seed=seed,
        pad_id=tokenizer.pad_token_id or 0,
    )
    return lambda step: {name: value.to(device) for name, value in batches.batch(step).items()}


def _recover(
    student: Any,
    teacher: Any,
    selection: Selection,
    settings: BitnetConfig,
    batch: Callable[[int], Mapping[str, Tensor]],
    steps: int,
    device: str,
    observe: Callable[[int, Mapping[str, float]], None] | None,
) -> None:
    recovery = Recovery(
        student,
        teacher,
        matrices=list(selection.linears) if settings.optimizer == "muon" else [],
        frozen=list(selection.tables),
        learning_rate=settings.learning_rate,
        adamw_learning_rate=settings.other_learning_rate,
        weight_decay=settings.weight_decay,
        weights=(settings.cross_entropy_weight, settings.divergence_weight, settings.relation_weight),
        temperature=settings.temperature,
        autocast=training_precision(settings.precision, device),
    )
    for step in range(steps):
        blend = warm_up(step, steps // 4)
        rate = schedules.multiplier("cosine", step / steps, warmup_fraction=0.05, floor=0.02)
        parts = recovery.step(batch(step), rate=rate, blends=dict.fromkeys(selection.linears, blend))
        if observe is not None:
            observe(step, parts)
    set_levels(student, dict.fromkeys(selection.linears, TERNARY))
