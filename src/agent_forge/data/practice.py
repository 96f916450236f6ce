"""Worked thoughts: questions whose answer is one word, with the steps that lead to it as a thought.

Seven ways to think, each a small family of questions that a program makes and grades: ``decompose`` (one step after
the other), ``follow`` (a chain of links), ``falsify`` (try each candidate), ``doubt`` (recompute a claim), ``view``
(look from the other end), ``weigh`` (odds, updated by each piece of evidence) and ``eliminate`` (what remains). Levels
set the number of steps. Item n of a seed is a pure function of (seed, n); its split follows from what it asks, as
everywhere in the synthetic world (`agent_forge.data.synthetic_world`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from agent_forge.data.documents import Document, Split, Task
from agent_forge.data.synthetic_world.words import ANIMALS, COLOURS, FOODS, THINGS, Item, key_of, some, stream

DOMAIN = "thoughts"
LEVELS = tuple(range(1, 11))

Worked = tuple[str, str, str]
"""Question, thought, answer."""


def worked_thought(seed: int, number: int, level: int, strategies: Sequence[str] = ()) -> Item:
    """Item ``number`` of this seed; the strategies take turns.

    Args:
        seed: of the world.
        number: which item.
        level: 1–10.
        strategies: which of `STRATEGIES`; empty = all.

    Raises:
        ValueError: an unknown strategy, or a level outside 1–10.
    """
    names = tuple(strategies) or STRATEGIES
    if unknown := [name for name in names if name not in _WAYS]:
        raise ValueError(f"unknown strategies {unknown}; there are {', '.join(STRATEGIES)}")
    if level not in LEVELS:
        raise ValueError(f"level {level} is not in 1–10")
    name = names[number % len(names)]
    question, thought, answer = _WAYS[name](stream(DOMAIN, seed, number, level), level)
    turns = (("user", question), ("thought", thought), ("assistant", answer))
    task = Task(question, answer, f"{DOMAIN}/{name}", level, DOMAIN)
    return Item(Document.chat(turns, DOMAIN, level), (task,), key_of(DOMAIN, question))


def worked_thoughts(
    seed: int, split: Split, levels: Sequence[int] = (1, 2, 3), strategies: Sequence[str] = ()
) -> Iterator[Item]:
    """Endless items of one split, strategies and levels in turn.

    Args:
        seed: of the world.
        split: which split.
        levels: which of 1–10.
        strategies: which of `STRATEGIES`; empty = all.
    """
    number = 0
    width = len(strategies) or len(STRATEGIES)
    while True:
        item = worked_thought(seed, number, levels[number // width % len(levels)], strategies)
        if item.split == split:
            yield item
        number += 1


def _decompose(rng: random.Random, level: int) -> Worked:
    """A number that changes; it stays between 0 and 9, so that a step is one fact."""
    value = rng.randint(0, 9)
    said, steps = [f"Start with {value}"], []
    for _ in range(1 + level):
        if rng.random() < 0.5 and value < 9:
            n = rng.randint(1, 9 - value)
            said.append(f"add {n}")
            steps.append(f"{value} + {n} = {value + n}")
            value += n
        else:
            n = rng.randint(0, value)
            said.append(f"take {n}")
            steps.append(f"{value} - {n} = {value - n}")
            value -= n
    return f"{', '.join(said)}. What is left?", ", ".join(steps), str(value)


def _follow(rng: random.Random, level: int) -> Worked:
    """Links in shuffled order, followed from a start."""
    words = some(rng, ANIMALS, 3 + level)
    links = list(pairwise(words))
    steps = 1 + level
    rng.shuffle(links)
    told = ", ".join(f"{one} to {other}" for one, other in links)
    way = ", ".join(f"{words[n]} to {words[n + 1]}" for n in range(steps))
    return f"Links: {told}. From {words[0]}, {steps} links on?", way, words[steps]


def _falsify(rng: random.Random, level: int) -> Worked:
    """Candidates are tried until one fails to be refuted."""
    words = some(rng, COLOURS, 2 + min(level, 6))
    there, missing = words[:-1], words[-1]
    shown = some(rng, there, len(there))
    candidates = some(rng, words, len(words))
    tried = []
    for word in candidates:
        tried.append(f"{word}: {'no' if word == missing else 'yes'}")
        if word == missing:
            break
    return f"Seen: {', '.join(shown)}. Which of {', '.join(candidates)} is not seen?", ", ".join(tried), missing


def _doubt(rng: random.Random, level: int) -> Worked:
    """A claim is recomputed before it is believed."""
    numbers = [rng.randint(0, 3) for _ in range(2 + (level + 1) // 2)]
    total, steps = numbers[0], []
    for n in numbers[1:]:
        steps.append(f"{total} + {n} = {total + n}")
        total += n
    claim = total if rng.random() < 0.5 else total + rng.choice([n for n in (-2, -1, 1, 2) if total + n >= 0])
    verdict = "is" if claim == total else "is not"
    said = " + ".join(map(str, numbers))
    return (
        f"Is it true that {said} = {claim}?",
        f"{', '.join(steps)}, {total} {verdict} {claim}",
        "yes" if claim == total else "no",
    )


def _view(rng: random.Random, level: int) -> Worked:
    """The same row, looked at from its other end."""
    words = some(rng, FOODS, 3 + min(level, 8))
    place = rng.randint(2, min(len(words) - 1, 2 + level // 2))
    back = words[::-1][:place]
    return f"A row: {', '.join(words)}. Which is number {place} from the end?", ", ".join(back), back[-1]


def _weigh(rng: random.Random, level: int) -> Worked:
    """Bayes' rule with equal ratios: each piece of evidence moves the odds by one."""
    votes = [rng.random() < 0.5 for _ in range(2 + level)]
    if sum(votes) * 2 == len(votes):
        votes.append(rng.random() < 0.5)
    one, other = 0, 0
    odds = []
    for vote in votes:
        one, other = one + vote, other + (not vote)
        odds.append(f"{one} to {other}")
    (red, blue), (cave, hill) = some(rng, COLOURS, 2), some(rng, ANIMALS, 2)
    signs = " ".join(red if vote else blue for vote in votes)
    question = f"A {red} mark speaks for the {cave}, a {blue} one for the {hill}: {signs}. Which is likelier?"
    return question, ", ".join(odds), cave if one > other else hill


def _eliminate(rng: random.Random, level: int) -> Worked:
    """Everyone but one is known: the last thing is theirs."""
    count = 3 + min(level, 5) // 2
    who, things = some(rng, ANIMALS, count), some(rng, THINGS, count)
    pairs = list(zip(who, things, strict=True))
    last, wanted = pairs[-1]
    known = pairs[:-1]
    rng.shuffle(known)
    told = ", ".join(f"{one} has the {thing}" for one, thing in known)
    taken = ", ".join(f"{thing}: {one}" for one, thing in known)
    shown = ", ".join(some(rng, things, count))
    return f"There are {shown}: {told}. What has the {last}?", f"{taken}, {wanted}: {last}", wanted


_WAYS: dict[str, Callable[[random.Random, int], Worked]] = {
    "decompose": _decompose,
    "follow": _follow,
    "falsify": _falsify,
    "doubt": _doubt,
    "view": _view,
    "weigh": _weigh,
    "eliminate": _eliminate,
}
STRATEGIES = tuple(_WAYS)
