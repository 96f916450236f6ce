"""Tool use inside the curriculum: the model calls, the tool runs, the result enters the context.

Supervised turns of calls and results are documents of the synthetic world like any other. What is asked of the model
is the whole dialogue: its calls are executed (`agent_forge.agent`), and only what it says in the end counts. Most
questions are about people of a world of their own, so `lookup` and `search` know the people of the question that asks.

With thought tokens, the steps of a worked answer become the thought before it, so that what is practised has the
shape in which the model answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.calls import RESULT, Call, parse_call
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.runtime import converse_all
from agent_forge.agent.toolbox import Result, Toolbox
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
        right = [False] * len(questions)
        for group in _agreeing(questions):
            box = OwnWorlds(self.toolbox, (questions[n] for n in group))
            prompts = [questions[n].task.prompt for n in group]
            found = converse_all(model, tokenizer, box, prompts, max_calls=most, max_tokens=max_tokens)
            for n, transcript in zip(group, found, strict=True):
                right[n] = normalised(transcript.answer) == normalised(questions[n].worked.turns[-1][1])
        return right


class OwnWorlds(Toolbox):
    """The tools of one world that know the people of some questions, too.

    Args:
        plain: the tools of a world.
        questions: what their worked calls find is found here; no two of them may find different things by one call.
    """

    def __init__(self, plain: Toolbox, questions: Iterable[Question]) -> None:
        super().__init__(plain.tools.values(), plain.knowledge, plain.audit)
        self.told = {call: text for question in questions for call, text in _found(question).items()}

    def call(self, call: Call) -> Result:
        """What the question's own world has to say, else what the tool says."""
        text = self.told.get(call)
        return super().call(call) if text is None else Result(text, ok=True)


def _found(question: Question) -> dict[Call, str]:
    """What the worked calls to `lookup` and `search` find; what is calculated is calculated."""
    found = {}
    for (_, said), (role, heard) in pairwise(question.worked.turns[1:]):
        call = parse_call(said)
        if role == "user" and call is not None and call.name in ("lookup", "search"):
            found[call] = heard.removeprefix(RESULT)
    return found


def _agreeing(questions: Sequence[Question]) -> list[list[int]]:
    """Numbers of the questions, in groups within which no call finds two things: two worlds may share a name."""
    groups: list[tuple[list[int], dict[Call, str]]] = []
    for number, question in enumerate(questions):
        found = _found(question)
        fits = (group for group in groups if all(group[1].get(call, text) == text for call, text in found.items()))
        members, told = next(fits, ([], {}))
        if not members:
            groups.append((members, told))
        members.append(number)
        told |= found
    return [members for members, _ in groups]


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
