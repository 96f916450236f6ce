"""Every judgement of phase 6 in one place: of tools, of a round, and of the agent that comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.persona import Choice, preferred, style_statistics
from agent_forge.agent.tool_exam import ToolScores, Worlds, ask_tools, merged, questions_about, shown
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split, Task
from agent_forge.data.practice_dialogues import Exchange
from agent_forge.data.thought_habit import habit_tasks
from agent_forge.data.tokenizer import has_thoughts
from agent_forge.evaluation.bits_per_byte import ordinary_bits_per_byte
from agent_forge.evaluation.tasks import exact_match
from agent_forge.optim.prompt_baking import mean_divergence
from agent_forge.phases.baking.compatibility import judge
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.measurement import Baseline, persona_figures, prefixed, recovered


class Judgement:
    """Judges models of one phase run.

    Args:
        config: of the phase.
        tokenizer: of the models.
        corpus: for ordinary text.
        practice: the fact ``practice`` of a checkpoint that thinks.
    """

    def __init__(
        self,
        config: BakingConfig,
        tokenizer: PreTrainedTokenizerBase,
        corpus: Corpus,
        practice: Mapping[str, Any] | None = None,
    ) -> None:
        self.config, self.tokenizer, self.corpus = config, tokenizer, corpus
        self.thoughts: list[Task] = []
        if practice is not None and has_thoughts(tokenizer):
            self.thoughts = habit_tasks(practice, config.selection_questions)

    def thinking(self, model: PreTrainedModel) -> float | None:
        """Share of the questions of phase 3's test split answered right after a thought; None without the habit."""
        if not self.thoughts:
            return None
        return exact_match(model, self.tokenizer, self.thoughts, self.config.answer_tokens, think=True).accuracy

    def text_bits(self, model: PreTrainedModel, split: Split) -> float:
        """See `ordinary_bits_per_byte`."""
        return ordinary_bits_per_byte(model, self.tokenizer, self.corpus, split, self.config.text_documents)

    def verdicts(
        self, model: PreTrainedModel, worlds: Worlds, tools: Sequence[str], *, prompted: bool
    ) -> list[dict[str, Any]]:
        """A verdict on each tool, on the selection split and a world that was not trained on."""
        if not tools:
            return []
        scores = self._ask(model, worlds[-1:], tools, "selection", self.config.selection_questions, prompted)
        found = judge(
            tools,
            scores.asked,
            scores.transcripts,
            scores.right,
            min_accuracy=self.config.min_tool_accuracy,
            max_harm=self.config.max_tool_harm,
        )
        return [{"prompted": prompted, **verdict.to_json()} for verdict in found]

    def first_verdicts(self, model: PreTrainedModel, worlds: Worlds, tools: Sequence[str]) -> list[dict[str, Any]]:
        """Verdicts with the list of tools in context, or without it where the model does no worse without."""
        told, untold = (self.verdicts(model, worlds, tools, prompted=told) for told in (True, False))
        means = [sum(row["accuracy"] or 0.0 for row in rows) for rows in (told, untold)]
        return told if means[0] > means[1] else untold

    def round(
        self,
        model: PreTrainedModel,
        worlds: Worlds,
        tools: Sequence[str],
        prompt: str,
        made: Sequence[Choice],
        text_before: float,
    ) -> dict[str, float]:
        """Tools, persona and ordinary text of a round, on the selection split, without a prompt."""
        scores = self._ask(model, worlds[-1:], tools, "selection", self.config.selection_questions, False)
        return {
            "tools": sum(scores.right) / len(scores.right),
            "persona": self._persona(model, prompt, made, scores),
            "text_ratio": self.text_bits(model, "selection") / text_before,
        }

    def measure(
        self,
        model: PreTrainedModel,
        prompt: str,
        unbaked: Baseline,
        asked: Sequence[tuple[Toolbox, Toolbox, list[Exchange]]],
        text_before: float,
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """What the gates read, on the test split, and the page of the report.

        Args:
            model: read back from its files.
            prompt: of the persona.
            unbaked: the model before baking, with and without its prompts.
            asked: for the agent's own world and for one that is new: its tools, all tools, questions.
            text_before: bits per byte of the phase's input.
        """
        tokens = self.config.answer_tokens
        scores = [
            ask_tools(model, self.tokenizer, box, questions, answer_tokens=tokens, reference=whole)
            for box, whole, questions in asked
        ]
        together = merged(scores)
        figures = together.figures()
        figures["tools_right_answer_unseen_people"] = scores[-1].figures().get("tools_right_answer", 0.0)
        figures |= persona_figures(self.config, model, self.tokenizer, prompt, unbaked.choices, "test")
        figures |= style_statistics(prompt, [found.answer for found in together.transcripts])
        divergence = mean_divergence(model, unbaked.pairs, unbaked.targets)
        figures["divergence_unbaked"], figures["divergence_baked"] = unbaked.divergence, divergence
        figures["divergence_ratio"] = divergence / max(unbaked.divergence, 1e-12)
        figures["text_ratio"] = self.text_bits(model, "test") / text_before
        figures |= {f"before/{name}": value for name, value in unbaked.figures.items()}
        for name in ("tools_right_answer", "styled_fraction"):
            sides = [unbaked.figures.get(f"{side}/{name}") for side in ("prompted", "unprompted")]
            if name in figures and sides[0] is not None and sides[1] is not None:
                share = recovered(figures[name], sides[0], sides[1])
                if share is not None:
                    figures[f"recovered/{name}"] = share
        return prefixed(figures), {"dialogues": shown(scores)}

    def _persona(self, model: PreTrainedModel, prompt: str, made: Sequence[Choice], scores: ToolScores) -> float:
        """Preference, joined with how the answers look where the persona has exact ones."""
        told = preferred(model, self.tokenizer, made)
        share = sum(told) / max(1, len(told))
        looks = style_statistics(prompt, [found.answer for found in scores.transcripts])
        return (share + looks["styled_fraction"]) / 2 if "styled_fraction" in looks else share

    def _ask(
        self, model: PreTrainedModel, worlds: Worlds, tools: Sequence[str], split: Split, count: int, prompted: bool
    ) -> ToolScores:
        rows = questions_about(worlds, self.config.levels, tools, split, count)
        tokens = self.config.answer_tokens
        return merged(
            [ask_tools(model, self.tokenizer, b, q, answer_tokens=tokens, prompted=prompted) for b, q in rows]
        )
