"""Skills that an expert can be made for: where their questions come from, and what is held back.

A skill is named ``drills/KIND`` (`agent_forge.data.synthetic_world.drills`), ``thoughts/STRATEGY``
(`agent_forge.data.practice`) or ``corpus/DOMAIN``. Splits are disjoint by content, as everywhere: training reads one,
the choice among experts another, and figures are of the third.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice, zip_longest
from typing import TypeVar

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import SPLITS, Document, Split, Task
from agent_forge.data.practice import STRATEGIES, worked_thought
from agent_forge.data.synthetic_world.drills import KINDS, drill
from agent_forge.data.synthetic_world.words import Item

T = TypeVar("T")

# Items in a row that bring nothing, after which no other question is expected.
_MISSES = 4000


@dataclass(frozen=True)
class Examples:
    """Some of a skill.

    Attributes:
        documents: worked answers, or text.
        tasks: questions with an exact answer; may be fewer, and none for plain text.
    """

    documents: tuple[Document, ...]
    tasks: tuple[Task, ...]


@dataclass(frozen=True)
class Skill:
    """A name with its examples by split."""

    name: str
    train: Examples
    selection: Examples
    test: Examples


def skill_names(corpus: Corpus | None = None) -> list[str]:
    """Every skill there is; those of a corpus if one is given."""
    own = [f"drills/{kind}" for kind in KINDS] + [f"thoughts/{name}" for name in STRATEGIES]
    return own + [f"corpus/{domain}" for domain in (corpus.domains if corpus else ())]


def gather(name: str, corpus: Corpus, *, seed: int, levels: Sequence[int], counts: dict[Split, int]) -> Skill:
    """The examples of a skill.

    Args:
        name: see the module.
        corpus: of the run.
        seed: of the synthetic world.
        levels: difficulties of 1–10, in turn.
        counts: documents of each split at most; few short questions differ, so that fewer may come.

    Raises:
        ValueError: an unknown skill, or one without examples in some split.
    """
    if name not in skill_names(corpus):
        raise ValueError(f"unknown skill {name!r}; there are {', '.join(skill_names(corpus))}")
    room, _, what = name.partition("/")
    if room == "corpus":
        found = {
            split: Examples(
                tuple(islice(corpus.documents(what, split), counts[split])),
                tuple(task for task in corpus.tasks(what, split) if not task.choices)[: counts[split]],
            )
            for split in SPLITS
        }
    else:
        found = _drawn(_items(room, what, seed, levels), counts)
    if empty := [split for split in SPLITS if not found[split].documents]:
        raise ValueError(f"skill {name} has no examples in split {empty[0]}; use other levels")
    return Skill(name, found["train"], found["selection"], found["test"])


def ordinary(corpus: Corpus, split: Split, amount: int, *, without: Sequence[str] = ()) -> Examples:
    """What is no skill: documents and questions of the corpus, its domains in turn.

    Args:
        corpus: of the run.
        split: of both.
        amount: documents, and questions, at most.
        without: skills; their domains are left out. Where that is all of them, nothing is ordinary.
    """
    domains = [domain for domain in corpus.domains if f"corpus/{domain}" not in without]
    documents = in_turn([corpus.documents(domain, split) for domain in domains], amount)
    tasks = in_turn([corpus.tasks(domain, split) for domain in domains], amount)
    if not tasks:  # a corpus of plain text: its beginnings stand for what users say
        tasks = [Task(opening(document), "", "ordinary", None, document.domain) for document in documents]
    return Examples(tuple(documents), tuple(tasks))


def in_turn(groups: Sequence[Sequence[T]], amount: int) -> list[T]:
    """The first of each, the second of each, and so on, ``amount`` at most; one that has no more is passed over."""
    none = object()
    turns = chain.from_iterable(zip_longest(*groups, fillvalue=none))
    return list(islice((each for each in turns if each is not none), amount))  # type: ignore[misc]


def opening(document: Document) -> str:
    """What a document begins with: what the user says first, else its first words."""
    said = [content for role, content in document.turns if role == "user"]
    return said[0] if said else document.text[:200]


def _items(room: str, what: str, seed: int, levels: Sequence[int]) -> Iterator[Item]:
    for number in count():
        level = levels[number % len(levels)]
        yield drill(seed, number, level, what) if room == "drills" else worked_thought(seed, number, level, (what,))


def _drawn(items: Iterator[Item], counts: dict[Split, int]) -> dict[Split, Examples]:
    """Different items, until every split has enough or nothing else comes."""
    found: dict[Split, dict[str, Item]] = {split: {} for split in SPLITS}
    misses = 0
    for item in items:
        held = found[item.split]
        if item.key in held or len(held) >= counts[item.split]:
            misses += 1
        else:
            held[item.key] = item
            misses = 0
        if misses >= _MISSES or all(len(found[split]) >= counts[split] for split in SPLITS):
            break
    return {
        split: Examples(
            tuple(item.document for item in held.values()), tuple(task for item in held.values() for task in item.tasks)
        )
        for split, held in found.items()
    }
