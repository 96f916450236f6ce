"""Quantization of one checkpoint folder on its own, outside a pipeline: `agent-forge quantize MODEL --out DIR`.

Without text the layers are calibrated by their weights alone and nothing is trained. That gives a correct ternary
checkpoint, but not a good one: three levels cost a trained model most of what it knows until it is trained again.
With text, training of ``recovery_steps`` steps against the full-precision model wins that back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

from agent_forge.agent.belongings import carry_tools
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, pack
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.forward import accepted, on_device
from agent_forge.model.ternary import TERNARY
from agent_forge.model.ternary_checkpoint import save_ternary
from agent_forge.model.ternary_selection import Selection, select
from agent_forge.optim import schedules
from agent_forge.optim.precision import training_precision
from agent_forge.phases.bitnet.calibration import LayerCalibration, calibrate
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.recovery import Recovery, warm_up
from agent_forge.phases.bitnet.ternarization import finish, make_student, set_levels


def quantize_folder(
    model_folder: Path | str,
    out: Path | str,
    *,
    sources: Sequence[str] = (),
    texts: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
    observe: Callable[[int, Mapping[str, float]], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Writes a ternary checkpoint folder (plain, packed, ``ternary.json``) of any causal language model.

    Args:
        model_folder: a folder that `AutoModelForCausalLM` loads.
        out: folder to write; made if missing, must be empty.
        sources: files of calibration and training text, as `agent_forge.data.corpora.ingest` takes them.
        texts: the same as strings; with neither, quantization is data-free and nothing is trained.
        seed: of the order of windows.
        device: to compute on.
        observe: told about every training step.
        settings: fields of `BitnetConfig`; stages are not used here.

    Returns:
        Facts: sizes in bytes, compression ratio, number of ternary layers, mean relative error.

    Raises:
        ConfigError: ``out`` holds something, or an unknown or impossible setting.
        HandoffError: the folder is no sound checkpoint.
    """
    out, config = Path(out), _config(settings)
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty; a quantized model is written into a folder of its own")
    teacher, tokenizer = load_model(model_folder, device=device)
    teacher.requires_grad_(False)
    texts = [*texts, *_read(sources)]
    batch = _windows(texts, tokenizer, config, seed, device) if texts else None
    calibration = _calibrated(teacher, tokenizer, config, batch)
    student, selection = make_student(teacher, tokenizer, calibration, activation_bits=config.activation_bits)
    levels = dict.fromkeys(selection.linears, TERNARY)
    set_levels(student, levels)
    if batch is not None:
        _recover(student, teacher, selection, config, batch, device, observe)
    finish(student, selection, levels, embedding_bits=config.embedding_bits)
    facts = {
        "phase": "bitnet",
        "config": config.model_dump(mode="json"),
        "seed": seed,
        "trained_steps": config.recovery_steps if batch else 0,
        "ternary_layers": len(levels),
        "mean_relative_error": sum(found.sensitivity for found in calibration.values()) / len(calibration),
    }
    sizes = save_ternary(student, tokenizer, out, selection, facts)
    carry_tools(Path(model_folder), out)
    return {
        **facts,
        "plain_bytes": sizes.plain_bytes,
        "packed_bytes": sizes.packed_bytes,
        "compression_ratio": sizes.compression_ratio,
    }


def _config(settings: Mapping[str, Any]) -> BitnetConfig:
    try:
        return BitnetConfig(**settings)
    except ValidationError as error:
        fields = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors())
        raise ConfigError(f"quantize cannot be set so: {fields}") from error


def _calibrated(
    teacher: PreTrainedModel, tokenizer: Any, settings: BitnetConfig, batch: Callable[[int], dict[str, Tensor]] | None
) -> dict[str, LayerCalibration]:
    """Calibration by the inputs that the layers see, or by the weights alone where there is no text."""
    steps = range(-(-settings.calibration_samples // settings.batch_size))
    return calibrate(
        teacher,
        select(teacher, tokenizer).linears,
        (accepted(teacher, batch(step)) for step in steps) if batch else (),
        group_size=settings.group_size,
        finer_group_size=settings.finer_group_size,
        finer_above=settings.finer_above,
    )


def _read(sources: Sequence[str]) -> list[str]:
    """The training texts of sources, read and filtered like any corpus."""
    if not sources:
        return []
    with TemporaryDirectory() as folder:
        ingest(list(sources), Path(folder) / "corpus", seed=0)
        corpus = Corpus.open(Path(folder) / "corpus")
        return [document.text for domain in corpus.domains for document in corpus.documents(domain, "train")]


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
    return lambda step: on_device(device, batches.batch(step))


def _recover(
    student: Any,
    teacher: Any,
    selection: Selection,
    settings: BitnetConfig,
    batch: Callable[[int], Mapping[str, Tensor]],
    device: str,
    observe: Callable[[int, Mapping[str, float]], None] | None,
) -> None:
    steps = settings.recovery_steps
    recovery = Recovery(
        student,
        teacher,
        matrices=list(selection.linears) if settings.optimizer == "muon" else [],
        frozen=list(selection.tables),
        learning_rate=settings.learning_rate,
        adamw_learning_rate=settings.other_learning_rate if settings.optimizer == "muon" else settings.learning_rate,
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
