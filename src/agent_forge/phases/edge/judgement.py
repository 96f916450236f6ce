"""What an agent can do, asked again after every cut: its tools, its persona, and ordinary text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.abilities import Abilities, Answers, points_lost
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.evaluation.bits_per_byte import ordinary_bits_per_byte
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.pruning import BITS, shares


class Judgement:
    """Judges models of one phase run.

    Args:
        config: of the phase.
        tokenizer: of the models.
        corpus: for ordinary text, and for the world that the agent knows.
        toolbox, persona, seed: as `Abilities` takes them.
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
        self.config, self.tokenizer, self.corpus = config, tokenizer, corpus
        self.abilities = Abilities(
            tokenizer, corpus, toolbox, persona, seed, levels=config.levels, answer_tokens=config.answer_tokens
        )

    def answers(self, model: PreTrainedModel, split: Split) -> dict[str, float | Answers]:
        """``bits_per_byte``, and question by question the abilities of an agent.

        Args:
            model: in evaluation mode.
            split: "selection" for choices, "test" for figures.
        """
        config = self.config
        bits = ordinary_bits_per_byte(model, self.tokenizer, self.corpus, split, config.text_documents)
        count = config.test_questions if split == "test" else config.selection_questions
        asked = self.abilities.answers(model, split, questions=count, persona_questions=config.persona_questions)
        return {BITS: bits} | asked


def changes(before: Mapping[str, float | Answers], after: Mapping[str, float | Answers]) -> dict[str, Any]:
    """What phase 7 cost, as the gates read it: ``edge/quality_change`` (fraction), ``edge/points_lost`` (0–100)."""
    was, now = shares(before), shares(after)
    asked = [{name: rows for name, rows in each.items() if not isinstance(rows, float)} for each in (before, after)]
    return {"edge/quality_change": now[BITS] / was[BITS] - 1, **points_lost(asked[0], asked[1], "edge")}
