"""Drills: short questions with one exact answer, whose difficulty is a length and nothing else.

Sums, numbers compared, words turned round, letters counted, values traced, orders inferred. They are not part of the
text that a corpus is made of: they are for practice, where a level must mean the same for every kind, and where many
questions have to be asked and answered in little time. Every answer is worked out in steps, as in `arithmetic`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world.words import NAMES, Item, key_of, stream

Drill = tuple[str, list[str], str]
"""Question, worked steps, answer."""


def drill(seed: int, number: int, level: int, kind: str = "") -> Item:
    """Drill ``number`` of this seed at a level of 1–10, of one of `KINDS` or of any (empty).

    Raises:
        KeyError: an unknown kind.
    """
    rng = stream("drills", seed, number, level)
    drawn = rng.choice(tuple(KINDS))
    kind = kind or drawn
    question, steps, answer = KINDS[kind](rng, level)
    worked = "\n".join([*steps, f"The answer is {answer}."])
    task = Task(question, answer, f"drills/{kind}", level, "drills")
    document = Document.chat((("user", question), ("assistant", worked)), "drills", level)
    return Item(document, (task,), key_of("drills", question))


def _sum(rng: random.Random, level: int) -> Drill:
    """As many terms as it takes; the running total is written down."""
    terms = [rng.randint(1, 9 + 6 * level) for _ in range(2 + (level - 1) // 3)]
    steps, total = [], terms[0]
    for term in terms[1:]:
        steps.append(f"{total} + {term} = {total + term}")
        total += term
    return f"{' + '.join(map(str, terms))} = ?", steps, str(total)


def _largest(rng: random.Random, level: int) -> Drill:
    """Two numbers at level 1, eleven at level 10."""
    numbers = rng.sample(range(1, 10 + 20 * level), 1 + level)
    best, steps = numbers[0], []
    for number in numbers[1:]:
        best = max(best, number)
        steps.append(f"so far {best}")
    return f"Largest of {', '.join(map(str, numbers))}?", steps[:-1], str(max(numbers))


def _reverse(rng: random.Random, level: int) -> Drill:
    """Letters turned round."""
    letters = [rng.choice("abcdefghijklmnop") for _ in range(2 + level)]
    return f"Turn round: {' '.join(letters)}", [], " ".join(reversed(letters))


def _count(rng: random.Random, level: int) -> Drill:
    """How often a letter occurs, counted aloud."""
    letters = [rng.choice("abc") for _ in range(3 + level)]
    asked = rng.choice(letters)
    steps = [" ".join(f"{letter}{letters[: place + 1].count(asked)}" for place, letter in enumerate(letters))]
    return f"How many {asked} in {' '.join(letters)}?", steps, str(letters.count(asked))


def _trace(rng: random.Random, level: int) -> Drill:
    """One value that changes as often as the level says."""
    value = rng.randint(1, 9 + level)
    lines, steps = [f"x = {value}"], []
    for _ in range(1 + level // 2):
        change = rng.randint(1, 5 + level)
        grows = rng.random() < 0.6 or change > value
        value += change if grows else -change
        lines.append(f"x {'+' if grows else '-'}= {change}")
        steps.append(f"x is {value}")
    return f"{'; '.join(lines)}; x?", steps, str(value)


def _order(rng: random.Random, level: int) -> Drill:
    """Who is tallest: a chain of comparisons, told in any order from level 3 on."""
    names = [name for name, _ in rng.sample(NAMES, 2 + (level + 1) // 2)]
    told = [f"{one} is taller than {two}." for one, two in itertools.pairwise(names)]
    if level >= 3:
        rng.shuffle(told)
    asked, answer = ("tallest", names[0]) if rng.random() < 0.5 else ("shortest", names[-1])
    return f"{' '.join(told)} Who is {asked}?", [" > ".join(names)], answer


KINDS: dict[str, Callable[[random.Random, int], Drill]] = {
    "sum": _sum,
    "largest": _largest,
    "reverse": _reverse,
    "count": _count,
    "trace": _trace,
    "order": _order,
}
