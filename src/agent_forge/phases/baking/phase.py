"""Phase 6: tools and a persona go into the weights.

Practise following prompts, drop tools that do not work, bake in rounds, recover, round, write, read back, measure.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.persona import Choice
from agent_forge.agent.tool_exam import questions_about, worlds_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.contract import Artifacts, Context, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.practice_dialogues import Persona, exchanges
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.ternary import is_exactly_ternary, rounded
from agent_forge.model.ternary_checkpoint import load_packed, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.baking import DECLARATION
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.course import Course
from agent_forge.phases.baking.judgement import Judgement
from agent_forge.phases.baking.loop import Round, alternate
from agent_forge.phases.baking.measurement import baseline, persona_choices
from agent_forge.phases.baking.persona_cycle import persona_cycle, propose_persona
from agent_forge.phases.baking.student import Student
from agent_forge.phases.baking.tools_cycle import joint_cycle, practice_loss, tools_cycle


class Baking:
    """See the module."""

    name: ClassVar[str] = DECLARATION.name
    version: ClassVar[int] = DECLARATION.version
    consumes: ClassVar[Mapping[str, str]] = DECLARATION.consumes
    produces: ClassVar[Mapping[str, str]] = DECLARATION.produces

    def run(self, config: BakingConfig, inputs: Artifacts, context: Context) -> Artifacts:
        """Gives the agent: a checkpoint with ``tools.json`` and ``knowledge.json``."""
        source = one(inputs, "model")
        model, tokenizer = context.load_model(source)
        corpus = Corpus.open(context.path(one(inputs, "corpus")))
        habits = source.facts.get("practice")
        judgement = Judgement(config, tokenizer, corpus, habits)
        thinking = judgement.thinking(model)
        text_before = {split: judgement.text_bits(model, split) for split in ("selection", "test")}
        student = Student(model, tokenizer, adapter_rank=config.adapter_rank, optimizer=config.optimizer)
        steps = config.practice_steps + config.iterations * (config.tools_steps + config.persona_steps)
        course = Course(context, student, total=steps + config.recovery_steps, checkpoint_every=config.checkpoint_every)
        prompt, tools, verdicts = self._practise(config, course, corpus, judgement, habits)
        told = any(row["prompted"] for row in verdicts)
        rounds, ended = self._bake(config, course, corpus, judgement, (prompt, tools, told, text_before["selection"]))
        final = student.weights()
        # Questions to dropped tools are asked, too.
        whole = worlds_of(config.levels, corpus, context.seed, config.tools)
        asked = questions_about(whole, config.levels, config.tools, "test", config.test_questions)
        student.load(course.kept["practised"])
        with rounded(student.model):
            toolbox, questions = asked[-1]
            unbaked = baseline(config, model, tokenizer, prompt, (toolbox.only(tools), questions), "test", told=told)
        student.load(final)
        # Rounding for good is part of what the last verdict is about.
        student.finish()
        worlds = worlds_of(config.levels, corpus, context.seed, tools)
        verdicts += judgement.verdicts(model, worlds, tools, prompted=False)
        tools = _staying(context, tools, verdicts)
        facts = self._facts(config, source.digest, context.seed, prompt, tools, (rounds, ended))
        facts |= {} if habits is None else {"practice": habits}
        folder = _write(student, worlds[0][1].only(tools), context.scratch / "agent", facts)
        baked, _ = load_packed(folder) if student.is_ternary else load_model(folder)
        baked.to(context.device)  # type: ignore[arg-type]
        measured, page = judgement.measure(baked, prompt, unbaked, _only(asked, tools), text_before["test"])
        if student.is_ternary:
            measured["baking/exactly_ternary"] = float(is_exactly_ternary(folder))
        if thinking is not None:
            measured["baking/thinking_before"], measured["baking/thinking"] = thinking, judgement.thinking(baked) or 0.0
        measured["baking/tools_dropped"] = float(len(config.tools) - len(tools))
        context.report(measured)
        story = {
            "persona": prompt,
            "rounds": [vars(entry) for entry in rounds],
            "ended": ended,
            "tools": verdicts,
            "tools_told": told,
        }
        context.attach("baking", {**story, **page, "measured": measured})
        return {"model": context.save_folder("checkpoint", folder, **facts)}

    def _practise(
        self, config: BakingConfig, course: Course, corpus: Corpus, judgement: Judgement, habits: Any
    ) -> tuple[str, list[str], list[dict[str, Any]]]:
        """Practice with prompts; the persona's prompt, the tools that work, and what was found about each."""
        model, tokenizer, context = course.student.model, course.student.tokenizer, course.context
        prompt = config.persona or course.remember(
            "persona", lambda: propose_persona(model, tokenizer, config.levels, context.seed, config.answer_tokens)
        )
        prepare = practice_loss(
            config, model, tokenizer, corpus, config.tools, Persona.of(prompt), context.seed, habits
        )
        course.segment("practice", config.practice_steps, prepare, learning_rate=config.learning_rate, whole=True)
        worlds = worlds_of(config.levels, corpus, context.seed, config.tools)
        verdicts: list[dict[str, Any]] = course.remember(
            "verdicts", lambda: judgement.first_verdicts(model, worlds, config.tools)
        )
        if "tools 0" not in course.finished:
            course.keep("practised")
        return prompt, _staying(context, config.tools, verdicts), list(verdicts)

    def _bake(
        self,
        config: BakingConfig,
        course: Course,
        corpus: Corpus,
        judgement: Judgement,
        given: tuple[str, list[str], bool, float],
    ) -> tuple[list[Round], str]:
        """The rounds, then both prompts together on the weights that will be rounded."""
        prompt, tools, told, text_before = given
        worlds = worlds_of(config.levels, corpus, course.context.seed, tools)
        model, tokenizer = course.student.model, course.student.tokenizer
        idle = list(islice(exchanges(79, config.levels, "selection", tools=()), config.selection_questions))
        rows = course.remember(
            "choices", lambda: [c.to_json() for c in persona_choices(config, model, tokenizer, prompt, idle)]
        )
        made = [Choice.from_json(row) for row in rows]
        rounds, ended = alternate(
            course,
            [
                partial(tools_cycle, config, course, corpus, tools, told),
                partial(persona_cycle, config, course, corpus, tools, prompt),
            ],
            lambda: judgement.round(course.student.model, worlds, tools, prompt, made, text_before),
            rounds=config.iterations,
            window=config.window,
            minimum_gain=config.minimum_gain,
            target=config.target,
            kept=config.kept_checkpoints,
        )
        joint_cycle(config, course, corpus, tools, prompt, told)
        return rounds, ended

    def _facts(
        self, config: BakingConfig, parent: str, seed: int, prompt: str, tools: list[str], loop: tuple[list[Round], str]
    ) -> dict[str, Any]:
        rounds, ended = loop
        return {
            "phase": self.name,
            "parents": [parent],
            "config": config.model_dump(mode="json"),
            "seed": seed,
            "persona": prompt,
            "tools": list(tools),
            "rounds": len(rounds),
            "ended": ended,
        }


def _staying(context: Context, tools: Any, verdicts: list[dict[str, Any]]) -> list[str]:
    """The tools that no verdict drops; each that goes is named in a warning (premortem PR6)."""
    reasons = {row["tool"]: row["dropped"] for row in verdicts if row["dropped"]}
    for row in verdicts:
        if row["dropped"] and row["tool"] in tools:
            evidence = {"harm": row["harm"], "accuracy": row["accuracy"] if row["accuracy"] is not None else -1.0}
            context.warn("PR6", f"tool {row['tool']} is dropped: {row['dropped']}", **evidence)
    return [tool for tool in tools if tool not in reasons]


def _only(asked: Any, tools: list[str]) -> list[Any]:
    """Questions to the tools that are left; those of dropped tools stay, so that dropping cannot raise a figure."""
    return [(toolbox.only(tools), toolbox, questions) for toolbox, questions in asked]


def _write(student: Student, toolbox: Toolbox, folder: Path, facts: dict[str, Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    model: PreTrainedModel = student.model
    tokenizer: PreTrainedTokenizerBase = student.tokenizer
    if student.is_ternary:
        save_ternary(model, tokenizer, folder, select(model, tokenizer), facts)
    else:
        save_model(model, tokenizer, folder, facts)
    toolbox.save(folder)
    return folder


PHASE = Baking()
