"""Phase 5: a ternary checkpoint learns by a curriculum and stays exactly ternary.

Thaw, learn by stages, freeze, write, read back from the packed file, measure.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.contract import Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.thought_habit import habit
from agent_forge.model.ternary import is_exactly_ternary
from agent_forge.model.ternary_checkpoint import (
    changed_special_rows,
    finish_student,
    load_packed,
    save_ternary,
    thaw_student,
)
from agent_forge.model.ternary_selection import Selection, select, special_rows
from agent_forge.optim.precision import training_precision
from agent_forge.optim.ternary_training import TernaryTraining
from agent_forge.phases.forge import DECLARATION
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.course import Course
from agent_forge.phases.forge.dreams import copy_of
from agent_forge.phases.forge.examiner import Examiner
from agent_forge.phases.forge.learner import Learner
from agent_forge.phases.forge.measurement import measure
from agent_forge.phases.forge.practice import Practice
from agent_forge.phases.forge.questions import Questions
from agent_forge.phases.forge.self_modelling import SelfModel


class Forge:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: ForgePhaseConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Gives the ternary checkpoint that learned."""
        source = one(inputs, "model")
        student, tokenizer = context.load_model(source)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        selection, frozen = thaw_student(student, tokenizer)
        before = special_rows(selection)
        habits = source.facts.get("practice")
        course = make_course(config, context, student, tokenizer, selection, frozen, before, corpus, habits)
        course.run()
        finish_student(student, selection, embedding_bits=config.embedding_bits)
        facts = {
            "phase": self.name,
            "parents": [source.digest],
            "config": config.model_dump(mode="json"),
            "seed": context.seed,
            "levels_passed": sorted(course.passed),
            **({} if habits is None else {"practice": habits}),
        }
        folder = context.scratch / "forged"
        shutil.rmtree(folder, ignore_errors=True)
        sizes = save_ternary(student, tokenizer, folder, selection, facts)
        packed, _ = load_packed(folder)
        packed.to(context.device)  # type: ignore[arg-type]
        changed = changed_special_rows(before, select(packed, tokenizer))
        measured, page = measure(config, course, packed, context.load_model(source)[0], tokenizer, corpus)
        measured |= {
            "forge/exactly_ternary": float(is_exactly_ternary(folder)),
            "forge/special_rows_identical": float(changed == 0),
            "forge/packed_bytes": float(sizes.packed_bytes),
        }
        context.report(measured)
        context.attach("forge", {**page, "measured": measured})
        return {"model": context.save_folder("checkpoint", folder, **facts)}


def make_course(
    config: ForgePhaseConfig,
    context: Context,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    selection: Selection,
    frozen: list[str],
    before: Mapping[str, torch.Tensor],
    corpus: Corpus,
    habits: Mapping[str, Any] | None = None,
) -> Course:
    """Everything that learns, from its configuration; ``habits`` is the checkpoint's fact ``practice``."""
    questions = Questions(corpus.world(context.seed), config.domains, corpus)
    practice = Practice(config, questions, corpus, tokenizer, context.seed, habit(tokenizer, habits))
    examiner = Examiner(student, tokenizer, questions, config.answer_tokens)
    return Course(config, context, _learner(config, context, student, selection, frozen, before), examiner, practice)


def _learner(
    config: ForgePhaseConfig,
    context: Context,
    student: PreTrainedModel,
    selection: Selection,
    frozen: list[str],
    before: Mapping[str, torch.Tensor],
) -> Learner:
    own = None
    if config.self_modelling_weight:
        table = student.get_input_embeddings().weight
        assert isinstance(table, torch.Tensor)
        width = int(table.shape[1])
        own = SelfModel(width).to(context.device)
    rows = selection.special_rows
    muon = config.optimizer == "muon"
    training = TernaryTraining(
        student,
        matrices=list(selection.linears) if muon else [],
        frozen=[*frozen, *(() if config.train_embeddings else selection.tables)],
        protected={name: (rows, values) for name, values in before.items()} if config.train_embeddings else None,
        extra={f"self_model.{name}": parameter for name, parameter in own.named_parameters()} if own else None,
        learning_rate=config.learning_rate,
        adamw_learning_rate=config.other_learning_rate if muon else config.learning_rate,
        weight_decay=config.weight_decay,
        clip_norm=config.clip_norm,
        grokfast_lambda=config.grokfast_lambda,
        grokfast_alpha=config.grokfast_alpha,
    )
    return Learner(
        student,
        training,
        self_model=own,
        self_weight=config.self_modelling_weight,
        special=rows,
        autocast=training_precision(config.precision, context.device),
        before=copy_of(student) if config.hold_weight and config.text_fraction else None,
        hold_weight=config.hold_weight,
    )


PHASE = Forge()
