"""Tool use inside the curriculum: the model calls, the tool runs, the result enters the context.

Supervised turns of calls and results are documents of the synthetic world like any other. What is asked of the model
is the whole dialogue: its calls are executed (`agent_forge.agent`), and only what it says in the end counts.

With thought tokens, the steps of a worked answer become the thought before it, so that what is practised has the
shape in which the model answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.runtime import converse_all
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.documents import Document
from agent_forge.data.world_knowledge import world_records
from agent_forge.evaluation.tasks import normalised
from agent_forge.phases.forge.questions import Question

_ANSWER = "The answer is "


class ToolRoom:
    """The tools of one world, ready to be called.

    Args:
        seed: of the world.
        level: hardest level whose people can be looked up.
    """

    def __init__(self, seed: int, level: int) -> None:
        self.seed, self.level = seed, level

    @cached_property
    def toolbox(self) -> Toolbox:
        """Made when it is first needed: the index of the people takes a moment."""
        return world_toolbox(Knowledge(world_records(self.seed, self.level)))

    def right(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        questions: Sequence[Question],
        max_tokens: int,
    ) -> list[bool]:
        """Whether each question is answered rightly in the end, its calls executed.

        Args:
            model: in evaluation mode.
            tokenizer: its tokenizer.
            questions: for which `wants_tools` holds.
            max_tokens: of each turn.
        """
        if not questions:
            return []
        most = max(len(question.worked.turns) // 2 for question in questions)
        found = converse_all(
            model, tokenizer, self.toolbox, [question.task.prompt for question in questions],
            max_calls=most, max_tokens=max_tokens,
        )  # fmt: skip
        return [
            normalised(transcript.answer) == normalised(question.worked.turns[-1][1])
            for transcript, question in zip(found, questions, strict=True)
        ]


def wants_tools(question: Question) -> bool:
    """Whether the worked answer calls a tool, or shows that none is needed."""
    return question.task.kind.startswith("tools/")


def thinking(document: Document) -> Document:
    """A worked answer with its steps as a thought; other documents as they are."""
    if len(document.turns) != 2 or _ANSWER not in document.turns[1][1]:
        return document
    steps, _, answer = document.turns[1][1].rpartition(_ANSWER)
    if not steps.strip():
        return document
    turns = (document.turns[0], ("thought", steps.strip()), ("assistant", f"{_ANSWER}{answer}"))
    return Document.chat(turns, document.domain, document.level)
