"""Fresh questions with exact answers, by level and split, never asked twice.

Items of the synthetic world are pure functions of (seed, number), and so are the questions: item n of a level does
not depend on what was drawn before. Questions of a corpus (GSM8K, MBPP, ARC and the like, from files) take part
where they have no choices; those without a level get one by the length of prompt and answer, a tenth of them each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document, Split, Task
from agent_forge.data.synthetic_world import MAKERS
from agent_forge.data.synthetic_world.drills import drill
from agent_forge.data.synthetic_world.tools import tool_question
from agent_forge.data.synthetic_world.words import Item

SOURCES: Mapping[str, Callable[[int, int, int], Item]] = {**MAKERS, "drills": drill}
"""What can be practised; ``corpus`` is accepted beside these."""
CORPUS = "corpus"
# Practice begins behind the items that a corpus of any usual size was made of.
_FIRST = 50_000_000
_MOST_MISSES = 400


@dataclass(frozen=True)
class Question:
    """Something to ask, and how it is answered.

    Attributes:
        task: prompt and exact answer.
        worked: the same as a conversation, steps and tool calls included.
        key: what it is about; equal keys are the same question.
    """

    task: Task
    worked: Document
    key: str


class Questions:
    """Draws questions.

    Args:
        seed: of the synthetic world (the corpus's own, so that its people and towns are the same).
        domains: of `SOURCES`, or "corpus".
        corpus: where questions of "corpus" come from.
    """

    def __init__(self, seed: int, domains: Sequence[str], corpus: Corpus | None = None) -> None:
        unknown = [domain for domain in domains if domain not in SOURCES and domain != CORPUS]
        if unknown or not domains:
            raise ValueError(f"cannot practise {unknown or 'nothing'}; there are {', '.join([*SOURCES, CORPUS])}")
        self.seed = seed
        self.domains = tuple(domain for domain in domains if domain != CORPUS)
        self._filed: dict[tuple[str, int], list[Question]] = {}
        self._corpus = corpus if CORPUS in domains else None

    def draw(
        self, level: int, split: Split, count: int, start: int = 0, quotas: Mapping[str, int] | None = None
    ) -> tuple[list[Question], int]:
        """At most ``count`` questions of a level, and where the next ones begin.

        Args:
            level: 1–10.
            split: questions of other splits are passed over.
            count: how many.
            start: what the last call gave; 0 at first.
            quotas: how many of each kind; None = as they come.

        Returns:
            The questions, fewer where a level has run out of different ones, and the next start.
        """
        found: dict[str, Question] = {}
        number, misses = start, 0
        filed = self._of_corpus(split, level)
        left = None if quotas is None else dict(quotas)
        sources = len(self.domains) + bool(filed)
        while len(found) < count and misses < _MOST_MISSES and sources:
            place = number % sources
            number += 1
            question = self._item(level, number, place, split) if place < len(self.domains) else None
            if place == len(self.domains):
                question = filed[(number // sources) % len(filed)]
            if question is None or question.key in found or (left is not None and not left.get(question.task.kind)):
                misses += 1
                continue
            found[question.key], misses = question, 0
            if left is not None:
                left[question.task.kind] -= 1
        return list(found.values()), number

    def held_out(self, levels: Sequence[int], split: Split, count: int) -> dict[int, list[Question]]:
        """The first ``count`` different questions of each level in a split: equal calls give equal questions."""
        return {level: self.draw(level, split, count)[0] for level in levels}

    def _item(self, level: int, number: int, place: int, split: Split) -> Question | None:
        item = self._made(self.domains[place], _FIRST + number, level, split)
        if item.split != split or not item.tasks or not item.document.turns:
            return None
        task = item.tasks[0]
        asked = item.document.turns[0][1] == task.prompt
        worked = item.document if asked else Document.chat(_exchange(task), task.domain, level)
        return Question(task, worked, item.key)

    def _made(self, domain: str, number: int, level: int, split: Split) -> Item:
        """Calls are practised on strangers too, and examined on people whom the tools know."""
        if domain == "tools":
            return tool_question(self.seed, number, level, world=None if split == "train" else self.seed)
        return SOURCES[domain](self.seed, number, level)

    def _of_corpus(self, split: Split, level: int) -> list[Question]:
        if self._corpus is None:
            return []
        if not any(key[0] == split for key in self._filed):
            self._filed |= {(split, n): [] for n in range(1, 11)}
            for n, question in _levelled(self._corpus, split):
                self._filed[split, n].append(question)
        return self._filed[split, level]


def _levelled(corpus: Corpus, split: Split) -> list[tuple[int, Question]]:
    """Questions of files with a level each: their own, or by length."""
    found = []
    for domain in corpus.domains:
        worked = {document.turns[0][1]: document for document in corpus.documents(domain, split) if document.turns}
        for task in corpus.tasks(domain, split):
            if not task.choices and domain not in MAKERS:
                document = worked.get(task.prompt) or Document.chat(_exchange(task), domain, task.level)
                found.append(Question(task, document, document.key()))
    found.sort(key=lambda question: (question.worked.num_bytes, question.key))
    return [(q.task.level or 1 + 10 * place // len(found), q) for place, q in enumerate(found)]


def _exchange(task: Task) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("user", task.prompt), ("assistant", task.answer)
