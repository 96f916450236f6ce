"""The search for a design within phase 7: questions with head-room, what a design may ask for, and resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.model.expert_vectors import applied, mixture_of
from agent_forge.phases.edge.architecture_search import Questions, Searched, search_design
from agent_forge.phases.edge.config import DesignConfig
from agent_forge.phases.edge.course import Course
from agent_forge.phases.edge.design_questions import mixed, sources, with_head_room
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.phases.edge.expert_course import Experts


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


def search(
    config: DesignConfig,
    course: Course,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    known: Known,
    experts: Experts,
) -> tuple[Searched | None, dict[str, Any]]:
    """The chosen design with its figures, or None and in the page the reason why nothing was searched."""
    if config.evaluations == 0:
        return None, {"skipped": "the configuration asks for no evaluation"}
    seed = course.context.seed
    bench = Bench(model, tokenizer, known.toolbox, seed=seed, max_tokens=config.answer_tokens, equip=_equip(experts))
    families, shares = with_head_room(
        sources(known.practice, known.toolbox, world=known.corpus.world(seed), seed=seed),
        lambda problems: bench.measure(AgentDesign(), problems).right,
        config.probe_questions,
    )
    if not families:
        found = ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "no questions"
        return None, {"skipped": f"no family of questions has head-room: {found}"}
    choosing = mixed(families, "selection", config.questions + config.further_questions)
    searched = search_design(
        bench,
        Questions(
            choosing[: config.questions], choosing[config.questions :], mixed(families, "test", config.test_questions)
        ),
        DesignSpace.of(
            tokenizer,
            known.toolbox,
            max_samples=config.max_samples,
            experts=({}, *({expert.name: 1.0} for expert in experts.experts)),
        ),
        evaluations=config.evaluations,
        population=config.population,
        control=config.control,
        all_hand_written=False,
        max_mean_tokens=config.max_mean_tokens,
        seed=seed,
        restored=course.states.get("design"),
        save=lambda state, count: course.keep("design", dict(state)),
        progress=course.context.progress,
    )
    return searched, {**searched.page, "families": shares, "measured": searched.measured}


def _equip(experts: Experts) -> Any:
    @contextmanager
    def equip(model: PreTrainedModel, design: AgentDesign) -> Iterator[PreTrainedModel]:
        mixture = mixture_of(experts.experts, dict(design.experts))
        with nullcontext() if mixture is None else applied(model, mixture, experts.basis):
            yield model

    return equip
