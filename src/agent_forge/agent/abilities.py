"""What an agent can do, asked again after each change of its weights: tools and persona, question by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.persona import choices, preferred
from agent_forge.agent.tool_exam import ask_tools, merged, questions_about, worlds_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Exchange, Persona, exchanges
from agent_forge.evaluation.statistics import surely_lost
from agent_forge.model.decoder import Decoder

TOOLS, NO_CALL, PERSONA = "tools", "no_call", "persona"
Answers: TypeAlias = Sequence[bool]
"""Whether each question was answered right."""
_BATCH = 16384
"""Tokens in a batch: a quarter faster than half as many, with the same answers."""


class Abilities:
    """Asks agents that share tools, persona and tokenizer the same questions.

    Args:
        tokenizer: of the agents.
        corpus: for the world that the agent knows.
        toolbox: of the agent; None = it has no tools, and is not asked about any.
        persona: its prompt; one that has no exact answers (not of the house's form) is not tested.
        seed: of the world, where the corpus tells none.
        levels: difficulty of the questions.
        answer_tokens: tokens of an answer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        corpus: Corpus,
        toolbox: Toolbox | None,
        persona: str,
        seed: int,
        *,
        levels: Sequence[int],
        answer_tokens: int,
    ) -> None:
        self.tokenizer, self.corpus, self.seed = tokenizer, corpus, seed
        self.levels, self.answer_tokens = levels, answer_tokens
        known = world_toolbox(Knowledge({})).tools
        self.tools = [name for name in (toolbox.tools if toolbox else ()) if name in known]
        self.persona = persona if persona and Persona.of(persona) is not None else ""

    def answers(
        self, model: PreTrainedModel, split: Split, *, questions: int, persona_questions: int
    ) -> dict[str, Answers]:
        """``tools`` (right answers), ``no_call`` (none needed, none made), ``persona`` (preferred); of what it has.

        Args:
            model: in evaluation mode.
            split: "selection" for choices, "test" for figures.
            questions: about tools, a quarter of them at least needing none.
            persona_questions: choices between two answers.
        """
        return self.about_tools(model, split, questions) | self._persona(model, split, persona_questions)

    def exam(self, split: Split, count: int) -> list[tuple[Toolbox, list[Exchange]]]:
        """About ``count`` questions for tools, with the tools of each world; none without tools."""
        if not self.tools:
            return []
        worlds = worlds_of(self.levels, self.corpus, self.seed, self.tools)
        return questions_about(worlds, self.levels, self.tools, split, count)

    def about_tools(self, model: Decoder, split: Split, count: int) -> dict[str, Answers]:
        """``tools`` and ``no_call`` of `answers`, of a model or its graph."""
        asked = self.exam(split, count)
        if not asked:
            return {}
        found = merged(
            [
                ask_tools(model, self.tokenizer, box, rows, answer_tokens=self.answer_tokens, batch_tokens=_BATCH)
                for box, rows in asked
            ]
        )
        needing = [ok for ok, exchange in zip(found.right, found.asked, strict=True) if exchange.steps]
        return {name: rows for name, rows in ((TOOLS, needing), (NO_CALL, found.no_call)) if rows}

    def _persona(self, model: PreTrainedModel, split: Split, count: int) -> dict[str, Answers]:
        if not self.persona:
            return {}
        idle = islice(exchanges(89, self.levels, split, tools=()), count)
        return {PERSONA: preferred(model, self.tokenizer, choices(self.persona, list(idle), 5))}


def points_lost(before: Mapping[str, Answers], after: Mapping[str, Answers], prefix: str) -> dict[str, float]:
    """How many points (0–100) of right answers were lost.

    Returns:
        Of the ability that lost most ``PREFIX/points_lost``, as seen, and ``PREFIX/sure_points_lost``, the lower end of
        the one-sided 95% interval; and ``PREFIX/points_lost/ABILITY`` of each. Without abilities nothing is lost.
    """
    seen = {name: 100 * (sum(rows) - sum(after[name])) / len(rows) for name, rows in before.items()}
    sure = [100 * surely_lost(rows, after[name]) for name, rows in before.items()]
    return {
        f"{prefix}/points_lost": max(seen.values(), default=0.0),
        f"{prefix}/sure_points_lost": max(0.0, max(sure, default=0.0)),
        **{f"{prefix}/points_lost/{name}": points for name, points in seen.items()},
    }
