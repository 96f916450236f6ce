"""The search for a design within phase 7: questions with head-room, what a design may ask for, routes, and resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import Dispatcher, question_features
from agent_forge.agent.equipment import with_experts
from agent_forge.agent.routes import first_pass
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.model.expert_vectors import applied
from agent_forge.phases.edge.architecture_search import search_design
from agent_forge.phases.edge.config import DesignConfig
from agent_forge.phases.edge.course import Course
from agent_forge.phases.edge.design_ledger import Questions
from agent_forge.phases.edge.design_questions import Source, mixed, sources, with_head_room
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.phases.edge.expert_course import Experts
from agent_forge.phases.edge.question_kinds import Kinds, tell_apart
from agent_forge.phases.edge.skills import ordinary

_ORDINARY = 64
FEWEST = 8
"""Questions of the selection split for each route; with fewer there are no routes."""


@dataclass(frozen=True)
class Known:
    """What the agent comes from.

    Attributes:
        corpus: of the run; its world is the one that the agent knows.
        toolbox: its tools, or None.
        practice: the fact ``practice`` of a checkpoint that thinks.
    """

    corpus: Corpus
    toolbox: Toolbox | None
    practice: Mapping[str, Any] | None


@dataclass(frozen=True)
class Designed:
    """What the search gives.

    Attributes:
        design: the chosen one; None where nothing was searched, and the page says why.
        dispatcher: the first pass of a design with routes.
        measured: figures by name.
        page: JSON for the report.
    """

    design: AgentDesign | None
    dispatcher: Dispatcher | None = None
    measured: dict[str, float] = field(default_factory=dict)
    page: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes ``agent.json``, and for routes ``routes.safetensors``, into a checkpoint folder."""
        if self.design is not None:
            self.design.save(folder)
            if self.design.routes and self.dispatcher is not None:
                self.dispatcher.save(folder)


def search(
    config: DesignConfig,
    course: Course,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    known: Known,
    experts: Experts,
) -> Designed:
    """The chosen design with its figures."""
    if config.evaluations == 0:
        return Designed(None, page={"skipped": "the configuration asks for no evaluation"})
    seed = course.context.seed
    equip = with_experts(experts.experts, partial(applied, basis=experts.basis))
    bench = Bench(model, tokenizer, known.toolbox, seed=seed, max_tokens=config.answer_tokens, equip=equip)
    space = DesignSpace.of(
        tokenizer, known.toolbox, max_samples=config.max_samples,
        experts=({}, *({expert.name: 1.0} for expert in experts.experts)),
    )  # fmt: skip
    every = sources(known.practice, known.toolbox, world=known.corpus.world(seed), seed=seed)
    return search_among(config, course, bench, space, every, known.corpus)


def search_among(
    config: DesignConfig, course: Course, bench: Bench, space: DesignSpace, every: Mapping[str, Source], corpus: Corpus
) -> Designed:
    """`search` for given families of questions; the first pass is set on ``bench``."""
    families, shares = with_head_room(
        every, lambda problems: bench.measure(AgentDesign(), problems).right, config.probe_questions
    )
    if not families:
        found = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "no questions"
        return Designed(None, page={"skipped": f"no family of questions has head-room: {found}"})
    choosing = mixed(families, "selection", config.questions + config.further_questions)
    asked = Questions(
        choosing[: config.questions], choosing[config.questions :], mixed(families, "test", config.test_questions)
    )
    kinds, said = routes(config, bench, every, list(families), len(choosing), corpus)
    searched = search_design(
        bench, asked, space if kinds is None else space.routed(kinds.natures), evaluations=config.evaluations,
        population=config.population, controls=("random",) if config.control else (), all_hand_written=False,
        max_mean_tokens=config.max_mean_tokens, seed=course.context.seed, restored=course.states.get("design"),
        save=lambda state, count: course.keep("design", dict(state)), progress=course.context.progress,
    )  # fmt: skip
    measured = dict(searched.measured)
    if kinds is not None:
        told = bench.recognised([problem.ask for problem in asked.test])
        measured["kind_accuracy"] = kinds.accuracy(asked.test, told)
    page = {**searched.page, "families": shares, "kinds": said, "measured": measured}
    return Designed(searched.design, kinds.dispatcher if kinds else None, measured, page)


def routes(
    config: DesignConfig,
    bench: Bench,
    every: Mapping[str, Source],
    with_room: Sequence[str],
    selection: int,
    corpus: Corpus,
) -> tuple[Kinds | None, str]:
    """The kinds of question that may get routes, with the first pass set on ``bench``; or None. And what to say."""
    if not config.routes:
        return None, "the configuration asks for no routes"
    if len(with_room) < 2 or selection < FEWEST * len(with_room):
        return None, (
            f"no routes: {selection} questions of {len(with_room)} families; at least 2 families, with {FEWEST} "
            "questions of each, are needed to choose a way for each"
        )
    kinds = kinds_of(bench, every, with_room, corpus)
    if len(kinds.natures) < 2:
        return None, f"no routes: {', '.join(with_room)} cannot be told apart by one reading"
    return kinds, ", ".join(kinds.natures)


def kinds_of(bench: Bench, every: Mapping[str, Source], with_room: Sequence[str], corpus: Corpus) -> Kinds:
    """Fits the first pass for an agent and sets it on ``bench``.

    Args:
        bench: the agent, without experts.
        every: all families.
        with_room: those that may get routes.
        corpus: for ordinary questions; its own questions for tools and thoughts are no ordinary ones.
    """
    own = [f"corpus/{domain}" for domain in ("tools", "thoughts")]
    questions = [task.prompt for task in ordinary(corpus, "train", _ORDINARY, without=own).tasks]
    kinds = tell_apart(
        every, with_room, questions, lambda asked: question_features(bench.model, bench.tokenizer, asked)
    )
    bench.first_pass = first_pass(bench.model, bench.tokenizer, kinds.dispatcher)
    return kinds
