"""What an agent can do, asked again after every cut: its tools, its persona, and ordinary text."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.persona import Choice, choices, preferred
from agent_forge.agent.tool_exam import ToolScores, ask_tools, merged, questions_about, worlds_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Persona, exchanges
from agent_forge.evaluation.bits_per_byte import ordinary_bits_per_byte
from agent_forge.model.decoder import Decoder
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.pruning import BITS

TOOLS, NO_CALL, PERSONA = "tools", "no_call", "persona"


class Judgement:
    """Judges models of one phase run.

    Args:
        config: of the phase.
        tokenizer: of the models.
        corpus: for ordinary text, and for the world that the agent knows.
        toolbox: of the agent; None = it has no tools, and is not asked about any.
        persona: its prompt; one that has no exact answers (not of the house's form) is not tested.
        seed: of the world, where the corpus tells none.
    """

    def __init__(
        self,
        config: EdgeConfig,
        tokenizer: PreTrainedTokenizerBase,
        corpus: Corpus,
        toolbox: Toolbox | None,
        persona: str,
        seed: int,
    ) -> None:
        self.config, self.tokenizer, self.corpus, self.seed = config, tokenizer, corpus, seed
        known = world_toolbox(Knowledge({})).tools
        self.tools = [name for name in (toolbox.tools if toolbox else ()) if name in known]
        self.persona = persona if persona and Persona.of(persona) is not None else ""

    def figures(self, model: PreTrainedModel, split: Split) -> dict[str, float]:
        """``bits_per_byte``, and shares: ``tools`` (right answers), ``no_call`` (none needed, none made), ``persona``.

        Args:
            model: in evaluation mode.
            split: "selection" for choices, "test" for figures.
        """
        bits = ordinary_bits_per_byte(model, self.tokenizer, self.corpus, split, self.config.text_documents)
        return {BITS: bits} | self._tools(model, split) | self._persona(model, split)

    def answered(self, model: Decoder, split: Split, count: int) -> ToolScores:
        """What became of so many questions about the agent's tools, asked with the tools at hand.

        Args:
            model: the agent, or its graph.
            split: that the questions are from.
            count: of them; equal counts are equal questions.
        """
        config = self.config
        worlds = worlds_of(config.levels, self.corpus, self.seed, self.tools)
        asked = questions_about(worlds, config.levels, self.tools, split, count)
        return merged(
            [ask_tools(model, self.tokenizer, box, rows, answer_tokens=config.answer_tokens) for box, rows in asked]
        )

    def _tools(self, model: PreTrainedModel, split: Split) -> dict[str, float]:
        if not self.tools:
            return {}
        count = self.config.test_questions if split == "test" else self.config.selection_questions
        found = self.answered(model, split, count).figures()
        names = {"tools_right_answer": TOOLS, "no_call_when_none_needed": NO_CALL}
        return {own: found[name] for name, own in names.items() if name in found}

    def _persona(self, model: PreTrainedModel, split: Split) -> dict[str, float]:
        if not self.persona:
            return {}
        told = preferred(model, self.tokenizer, self._choices(split))
        return {PERSONA: sum(told) / len(told)}

    def _choices(self, split: Split) -> list[Choice]:
        idle = islice(exchanges(89, self.config.levels, split, tools=()), self.config.selection_questions)
        return choices(self.persona, list(idle), 5)


def changes(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any]:
    """What phase 7 cost, as the gates read it: ``edge/quality_change`` (fraction), ``edge/points_lost/…`` (0–100)."""
    lost = {name: 100 * (before[name] - after[name]) for name in (TOOLS, NO_CALL, PERSONA) if name in before}
    return {
        "edge/quality_change": after[BITS] / before[BITS] - 1,
        **{f"edge/points_lost/{name}": points for name, points in lost.items()},
        "edge/points_lost": max(lost.values(), default=0.0),
    }
