"""Phase 3: a model learns to think before it answers, and is shown to do so.

Two tokens, the habit by worked thoughts, Quiet-STaR on ordinary text, then the same questions with its thoughts,
without, with others' and with filler.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.contract import Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Task
from agent_forge.data.thought_habit import habit_tasks
from agent_forge.data.tokenizer import encode_texts
from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score_domains
from agent_forge.evaluation.tasks import exact_match, prompt_ids
from agent_forge.model.checkpoint import save_model
from agent_forge.phases.quietstar import DECLARATION
from agent_forge.phases.quietstar.config import QuietstarConfig
from agent_forge.phases.quietstar.controls import run_controls
from agent_forge.phases.quietstar.course import Course
from agent_forge.phases.quietstar.habit import HabitBatches, habit_batches
from agent_forge.phases.quietstar.hardest_tokens import answer_token_nats
from agent_forge.phases.quietstar.measurement import figures, hardest_figures, report_page
from agent_forge.phases.quietstar.mixing_head import MixingHead
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens, marks_of

MIXING_HEAD = "mixing_head.safetensors"


class Quietstar:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: QuietstarConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Gives the checkpoint that thinks."""
        source = one(inputs, "model")
        model, tokenizer = context.load_model(source)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        practice = practice_of(config, context.seed)
        tasks = habit_tasks(practice, config.test_tasks)
        measured = _before(config, model, tokenizer, corpus, tasks)
        given = _answer_nats(model, tokenizer, tasks)
        resize = add_thought_tokens(model, tokenizer)
        before = copy.deepcopy(model).requires_grad_(False)
        course = Course(config, context, model, before, _batches(config, corpus, tokenizer, context.seed),
                        marks_of(tokenizer))  # fmt: skip
        course.run()
        facts = {
            "phase": self.name,
            "parents": [source.digest],
            "config": config.model_dump(mode="json"),
            "seed": context.seed,
            "thought_tokens": resize.to_json(),
            "practice": practice,
        }
        artifact = context.save_folder("checkpoint", _saved(model, tokenizer, course.head, context, facts), **facts)
        found = run_controls(
            model, tokenizer, tasks, thought_budget=config.thought_budget, answer_tokens=config.answer_tokens,
            coherence_bound=config.coherence_bound,
        )  # fmt: skip
        measured |= figures(found) | hardest_figures(found, given)
        bits = mean_bits_per_byte(score_domains(model, tokenizer, corpus, "test", config.test_documents))
        measured["quietstar/bits_per_byte"] = bits
        measured["quietstar/bits_per_byte_ratio"] = bits / measured["quietstar/bits_per_byte_before"]
        measured["quietstar/policy_restores"] = float(course.watch.restores)
        measured["quietstar/policy_failed"] = float(course.watch.restores >= course.watch.max_restores)
        if measured["quietstar/valid_thoughts_fraction"] < 0.5:
            message = f"{found.skipped.sum():.0f} of {len(tasks)} thoughts are incoherent and were not injected"
            context.warn("PR3", message, skipped=float(found.skipped.sum()), bound=config.coherence_bound)
        if measured["quietstar/accuracy_on"] <= measured["quietstar/accuracy_off"]:
            figures_of = {name: measured[f"quietstar/accuracy_{name}"] for name in ("on", "off")}
            message = f"{figures_of['on']:.1%} right with thoughts, {figures_of['off']:.1%} without: they do not help"
            context.warn("PR3-A", message, **figures_of)
        context.report(measured)
        context.attach(
            "quietstar",
            report_page(tasks, found, measured, diagnosis=course.watch.diagnosis, parallel=course.parallel),
        )
        return {"model": artifact}


def practice_of(config: QuietstarConfig, seed: int) -> dict[str, Any]:
    """The fact ``practice``: what the habit was taught on, for later phases that keep it up."""
    return {
        "seed": seed,
        "levels": list(config.levels),
        "strategies": list(config.strategies),
        "direct_fraction": config.direct_fraction,
    }


def _before(
    config: QuietstarConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    tasks: list[Task],
) -> dict[str, float]:
    """What the model could do when it came."""
    bits = mean_bits_per_byte(score_domains(model, tokenizer, corpus, "test", config.test_documents))
    answered = exact_match(model, tokenizer, tasks, config.answer_tokens, think=False)
    return {"quietstar/bits_per_byte_before": bits, "quietstar/accuracy_before": answered.accuracy}


def _answer_nats(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task]) -> np.ndarray:
    """Nats of the right answers' tokens, without thoughts."""
    prompts = prompt_ids(tokenizer, [task.prompt for task in tasks])
    return answer_token_nats(model, prompts, encode_texts(tokenizer, [task.answer for task in tasks]))


def _batches(config: QuietstarConfig, corpus: Corpus, tokenizer: PreTrainedTokenizerBase, seed: int) -> HabitBatches:
    return habit_batches(
        corpus,
        tokenizer,
        strategies=config.strategies,
        levels=config.levels,
        items=config.practice_items,
        direct_fraction=config.direct_fraction,
        filler_fraction=config.filler_fraction,
        ordinary_fraction=config.ordinary_fraction,
        sequence_length=config.sequence_length,
        batch_size=config.batch_size,
        steps=config.habit_steps + config.quiet_steps,
        seed=seed,
    )


def _saved(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    head: MixingHead,
    context: Context,
    facts: Mapping[str, object],
) -> Path:
    """A checkpoint folder with the mixing head beside the weights."""
    folder = context.scratch / "thinking"
    shutil.rmtree(folder, ignore_errors=True)
    save_model(model, tokenizer, folder, facts)
    save_file({name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()},
              folder / MIXING_HEAD)  # fmt: skip
    return folder


PHASE = Quietstar()
