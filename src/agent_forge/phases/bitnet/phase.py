"""Phase 4: a checkpoint becomes ternary, and training wins back what that costs.

Calibrate, quantize by stages, recover, freeze, write, read back from the packed file, measure.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.contract import Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, enough, pack
from agent_forge.data.thought_habit import habit, with_habit
from agent_forge.model.forward import accepted, on_device
from agent_forge.model.ternary import TERNARY, is_exactly_ternary
from agent_forge.model.ternary_checkpoint import changed_special_rows, load_packed, save_ternary
from agent_forge.model.ternary_selection import Selection, select, special_rows
from agent_forge.optim.precision import training_precision
from agent_forge.phases.bitnet import DECLARATION
from agent_forge.phases.bitnet.calibration import LayerCalibration, by_sensitivity, calibrate, in_stages
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.course import Course
from agent_forge.phases.bitnet.gradual import RUNG_NAMES
from agent_forge.phases.bitnet.measurement import bits_on_test_split, measure, report_page, validation
from agent_forge.phases.bitnet.recovery import Recovery
from agent_forge.phases.bitnet.ternarization import finish, make_student

# of what is trained on, where the model thinks: with a tenth more than a quarter of its right answers were lost
THOUGHT_FRACTION = 0.2


class Bitnet:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: BitnetConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Gives the ternary checkpoint."""
        source = one(inputs, "model")
        teacher, tokenizer = context.load_model(source)
        teacher.requires_grad_(False)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        practice = source.facts.get("practice")
        batches = training_batches(config, corpus, tokenizer, practice, context.seed)
        calibration = _calibrate(config, teacher, tokenizer, batches, context)
        student, selection = make_student(teacher, tokenizer, calibration, activation_bits=config.activation_bits)
        before = special_rows(selection)
        course = Course(
            config,
            context,
            _recovery(config, student, teacher, selection, before, context),
            in_stages(by_sensitivity(calibration), config.stages),
            batch=lambda step: on_device(context.device, batches.batch(step)),
            validate=validation(config, student, teacher, tokenizer, corpus),
        )
        levels = course.run()
        trained = bits_on_test_split(config, student, tokenizer, corpus)
        finish(student, selection, levels, embedding_bits=config.embedding_bits)
        facts = {
            "phase": self.name,
            "parents": [source.digest],
            "config": config.model_dump(mode="json"),
            "seed": context.seed,
            "levels": {name: RUNG_NAMES[level] for name, level in sorted(levels.items())},
            **({} if practice is None else {"practice": practice}),
        }
        folder = context.scratch / "ternary"
        shutil.rmtree(folder, ignore_errors=True)
        sizes = save_ternary(student, tokenizer, folder, selection, facts)
        measured = {
            "bitnet/exactly_ternary": float(is_exactly_ternary(folder)),
            "bitnet/compression_ratio": sizes.compression_ratio,
            "bitnet/packed_bytes": float(sizes.packed_bytes),
            "bitnet/layers_kept_higher": float(sum(level != TERNARY for level in levels.values())),
        }
        packed, _ = load_packed(folder)
        packed.to(context.device)  # type: ignore[arg-type]
        changed = changed_special_rows(before, select(packed, tokenizer))
        measured["bitnet/special_rows_identical"] = float(changed == 0)
        measured |= measure(config, packed, teacher, tokenizer, corpus, trained)
        context.report(measured)
        context.attach("bitnet", report_page(calibration, levels, course.attempts, measured))
        return {"model": context.save_folder("checkpoint", folder, **facts)}


def training_batches(
    config: BitnetConfig,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    practice: Mapping[str, Any] | None,
    seed: int,
) -> Batches:
    """The corpus, and worked thoughts if the checkpoint thinks; ``practice`` is its fact of that name."""
    steps = config.stages * config.stage_steps + config.recovery_steps
    wanted = steps * config.batch_size * config.sequence_length
    texts = {
        domain: pack(enough(corpus.documents(domain, "train"), wanted * share), tokenizer)
        for domain, share in corpus.mixture().items()
    }
    shards, mixture = with_habit(texts, corpus.mixture(), habit(tokenizer, practice), fraction=THOUGHT_FRACTION)
    return Batches(
        shards,
        mixture,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        seed=seed,
        pad_id=tokenizer.pad_token_id or 0,
    )


def _calibrate(
    config: BitnetConfig,
    teacher: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batches: Batches,
    context: Context,
) -> dict[str, LayerCalibration]:
    steps = range(-(-config.calibration_samples // config.batch_size))
    return calibrate(
        teacher,
        select(teacher, tokenizer).linears,
        (accepted(teacher, on_device(context.device, batches.batch(step))) for step in steps),
        group_size=config.group_size,
        finer_group_size=config.finer_group_size,
        finer_above=config.finer_above,
    )


def _recovery(
    config: BitnetConfig,
    student: PreTrainedModel,
    teacher: PreTrainedModel,
    selection: Selection,
    before: Mapping[str, torch.Tensor],
    context: Context,
) -> Recovery:
    rows = selection.special_rows
    return Recovery(
        student,
        teacher,
        matrices=list(selection.linears) if config.optimizer == "muon" else [],
        frozen=[] if config.train_embeddings else list(selection.tables),
        protected={name: (rows, values) for name, values in before.items()} if config.train_embeddings else None,
        learning_rate=config.learning_rate,
        adamw_learning_rate=config.other_learning_rate if config.optimizer == "muon" else config.learning_rate,
        weight_decay=config.weight_decay,
        weights=(config.cross_entropy_weight, config.divergence_weight, config.relation_weight),
        temperature=config.temperature,
        autocast=training_precision(config.precision, context.device),
    )


PHASE = Bitnet()
