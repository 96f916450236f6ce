"""Who asks the questions: success by level, the loss on worked answers, and own answers by lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document, Task
from agent_forge.data.tokenizer import has_thoughts
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.evaluation.tasks import exact_match
from agent_forge.model.ternary import rounded
from agent_forge.phases.forge.lineage import Lineage, answered
from agent_forge.phases.forge.own_answers import own_answers
from agent_forge.phases.forge.questions import Question, Questions
from agent_forge.phases.forge.tool_dialogues import ToolRoom, thinking, wants_tools

# An assessment climbs from below the edge until this many levels in a row are out of reach.
_OUT_OF_REACH, _IN_A_ROW = 0.3, 2


class Examiner:
    """Asks a student.

    Args:
        student: is asked as it is.
        tokenizer: its tokenizer.
        questions: where fresh ones come from.
        max_tokens: of an answer.
    """

    def __init__(
        self, student: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Questions, max_tokens: int
    ) -> None:
        self.student, self.tokenizer, self.questions, self.max_tokens = student, tokenizer, questions, max_tokens
        self.tools = ToolRoom(questions.seed, 10)

    def accuracy(self, asked: Mapping[int, Sequence[Question]]) -> dict[int, float]:
        """Share of exact answers by level."""
        return shares(self.answers(asked))

    def answers(self, asked: Mapping[int, Sequence[Question]]) -> dict[int, list[bool]]:
        """Whether each question is answered rightly, by level."""
        right = iter(self.right([question for found in asked.values() for question in found]).tolist())
        return {level: [next(right) for _ in found] for level, found in asked.items()}

    def right(self, questions: Sequence[Question]) -> np.ndarray:
        """Whether each is answered rightly, bool [N]: the last word of a tool dialogue, else the answer itself."""
        correct = np.zeros(len(questions), bool)
        called = [n for n, question in enumerate(questions) if wants_tools(question)]
        plain = [n for n, question in enumerate(questions) if not wants_tools(question)]
        with rounded(self.student):
            if plain:
                tasks = [questions[n].task for n in plain]
                correct[plain] = exact_match(
                    self.student, self.tokenizer, tasks, self.max_tokens, thought_budget=self.max_tokens
                ).correct
            if called:
                asked = [questions[n] for n in called]
                correct[called] = self.tools.right(self.student, self.tokenizer, asked, self.max_tokens)
        return correct

    def assess(
        self, levels: Sequence[int], edge: int, count: int, starts: Mapping[int, int]
    ) -> tuple[dict[str, dict[int, tuple[int, int]]], dict[int, int]]:
        """Right answers to fresh questions, from two levels below the edge up to where nothing succeeds.

        Args:
            levels: all.
            edge: the last stage's.
            count: questions of a level.
            starts: where each level's fresh questions begin.

        Returns:
            (right, asked) by kind and level, and where the next questions begin.
        """
        found: dict[str, dict[int, tuple[int, int]]] = {}
        after = dict(starts)
        failures = 0
        for level in (n for n in levels if n >= edge - 2):
            asked, after[level] = self.questions.draw(level, "train", count, starts[level])
            if not asked:
                continue
            for question, right in zip(asked, self.right(asked).tolist(), strict=True):
                own = found.setdefault(question.task.kind, {})
                before = own.get(level, (0, 0))
                own[level] = (before[0] + int(right), before[1] + 1)
            best = max(own[level][0] / own[level][1] for own in found.values() if level in own)
            failures = failures + 1 if best < _OUT_OF_REACH else 0
            if failures >= _IN_A_ROW and level > edge:
                break
        return found, after

    def answer_loss(self, asked: Mapping[int, Sequence[Question]], max_length: int) -> float:
        """Mean nats per token of the worked answers, questions given; what tools answer is part of them."""
        documents = [question.worked for found in asked.values() for question in found]
        if has_thoughts(self.tokenizer):
            documents = [thinking(document) for document in documents]
        if not documents:
            return 0.0
        with rounded(self.student):
            return answer_nats(
                self.student, self.tokenizer, documents, max_length=max_length, batch_tokens=8192, to_the_end=True
            ).mean

    def practise(
        self, lines: list[tuple[Lineage, Question]], *, temperature: float, seed: int, starts: dict[int, int]
    ) -> tuple[list[tuple[Lineage, Question]], list[Document]]:
        """Asks each lineage once (STaR) and moves its streak.

        Args:
            lines: lineages with what they ask.
            temperature: of the answers.
            seed: of the draws.
            starts: where fresh questions begin; moved on by the variants that are drawn.

        Returns:
            The lineages with what they ask next, mastered ones left out, and the right answers.
        """
        asked = [question for _, question in lines]
        with rounded(self.student):
            found = own_answers(
                self.student, self.tokenizer, asked, temperature=temperature, max_tokens=self.max_tokens, seed=seed
            )
        moved = [
            answered(line, question, said is not None, lambda grown: self.variant(grown, starts))
            for (line, question), said in zip(lines, found, strict=True)
        ]
        return [(line, question) for line, question in moved if not line.mastered], [d for d in found if d is not None]

    def variant(self, line: Lineage, starts: dict[int, int]) -> Question:
        """A fresh question of the line's level and kind; of another kind where none comes soon."""
        asked, starts[line.level] = self.questions.draw(line.level, "train", 24, starts[line.level])
        return next((question for question in asked if question.task.kind == line.kind), asked[0])


def shares(answers: Mapping[int, Sequence[bool]]) -> dict[int, float]:
    """Share of right answers by level, of levels with any answer."""
    return {level: sum(each) / len(each) for level, each in answers.items() if each}


def question_json(question: Question) -> dict[str, Any]:
    """Plain values; `question_of` is the inverse."""
    task = {**question.task.to_json(), "domain": question.task.domain}
    return {"task": task, "worked": question.worked.to_json(), "key": question.key}


def question_of(value: Mapping[str, Any]) -> Question:
    """The inverse of `question_json`."""
    domain = value["task"]["domain"]
    return Question(Task.from_json(value["task"], domain), Document.from_json(value["worked"], domain), value["key"])
