"""Questions in the shape of tool use: which tool, with which arguments, and what to say with its result.

A call is one line, ``tool(arguments)``; its result comes back as the next turn. Tools: ``calculator``, ``lookup``
(one fact about one person), ``search`` (who has this?), ``clock`` (hours later) and, at times, none at all. The results
are true in the invented world of `facts`.
"""

from __future__ import annotations

import random

from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world import facts
from agent_forge.data.synthetic_world.words import COLOURS, FOODS, NAMES, THINGS, TRADES, Item, key_of, plural, stream

Step = tuple[str, str]
"""A call, its result."""
Wish = tuple[str, list[Step], str]
"""What the user asks, the calls that answer it in order, the answer."""

TOOLS = {
    "calculator": "calculator(expression) gives the value of an expression",
    "lookup": "lookup(what, person) gives one fact about one person",
    "search": "search(what, value) gives the people for whom it holds",
    "clock": "clock(hour, later) gives the hour on a clock with 24 hours",
}
STRANGERS_FRACTION = 0.75
"""Share of the questions that are about people who occur nowhere else."""
_LOOKED_UP = ("town", "trade", "animal", "food", "colour", "born", "friend", "teacher")


def tool_question(seed: int, number: int, level: int, *, world: int | None = None) -> Item:
    """Question ``number`` of this seed: one call at level 1, up to four that use each other's results at level 10.

    Args:
        seed: of the question.
        number: of the question.
        level: 1–10.
        world: seed of the people it is about; None = mostly people of a world that occurs in this question alone, so
            that names have to be copied and not remembered, else the people of ``seed``.
    """
    rng = stream("tools", seed, number, level)
    if world is None:
        world = rng.getrandbits(40) if rng.random() < STRANGERS_FRACTION else seed
    makers = [_sum, _lookup, _hours] + [_nothing] * (level >= 2) + [_search] * (level >= 3)
    makers += [_linked, _lookup_sum] * (1 + level // 4) if level >= 4 else []
    ask, steps, answer = rng.choice(makers)(rng, level, world)
    offered = list(TOOLS.values())
    rng.shuffle(offered)
    said = f"{ask}\nTools: {'; '.join(offered)}." if rng.random() < 0.3 else ask
    turns = [("user", said)]
    tasks = []
    for place, (call, result) in enumerate(steps):
        if place == 0:
            tasks.append(Task(said, call, "tools/call", level, "tools"))
        turns += [("assistant", call), ("user", f"result: {result}")]
    turns.append(("assistant", answer))
    if not steps:
        tasks.append(Task(said, answer, "tools/none", level, "tools"))
    return Item(Document.chat(turns, "tools", level), tuple(tasks), key_of("tools", ask))


def _number(rng: random.Random, level: int) -> int:
    return rng.randint(10, 10 ** (2 + level // 3))


def _sum(rng: random.Random, level: int, seed: int) -> Wish:
    x, op, y = _number(rng, level), rng.choice("+-*"), _number(rng, level)
    text, value = f"{x} {op} {y}", {"+": x + y, "-": x - y, "*": x * y}[op]
    if level >= 5:
        z = rng.randint(2, 99)
        text, value = f"({text}) * {z}", value * z
    words = {
        "+": "the sum of {x} and {y}",
        "-": "the difference between {x} and {y}",
        "*": "the product of {x} and {y}",
    }[op]
    asked = [f"What is {text}?", f"Please work out {text}.", f"I need the value of {text}."]
    if level < 5:
        asked += [f"Give me {words.format(x=x, y=y)}.", _counted(rng, x, op, y)]
    return rng.choice(asked), [(f"calculator({text})", str(value))], f"It is {value}."


def _counted(rng: random.Random, x: int, op: str, y: int) -> str:
    thing, name = plural(rng.choice(THINGS)), rng.choice(NAMES)[0]
    return {
        "+": f"{name} has {x} {thing} and gets {y} more. How many is that?",
        "-": f"{name} had {x} {thing} and owes {y}. What remains?",
        "*": f"{name} stacks {x} rows of {y} {thing}. How many {thing}?",
    }[op]


def _lookup(rng: random.Random, level: int, seed: int) -> Wish:
    who, what = rng.randrange(facts.people_at(level)), rng.choice(_LOOKED_UP)
    name, found = facts.person(seed, who).name, facts.value(seed, who, what)
    asked = {
        "town": f"Find out where {name} lives.",
        "trade": f"What work does {name} do? Look it up.",
        "animal": f"Check which animal {name} has.",
        "food": f"I want to cook for {name}. What would please {name} most?",
        "colour": f"I want to paint a door for {name}. Which colour?",
        "born": f"I need the year in which {name} was born.",
        "friend": f"Whom does {name} trust most? Look up the best friend.",
        "teacher": f"Who was it that taught {name}? Please look.",
    }[what]
    return asked, [(f"lookup({what}, {name})", found)], f"It is {found}."


def _search(rng: random.Random, level: int, seed: int) -> Wish:
    what, options = rng.choice((("trade", TRADES), ("food", FOODS), ("colour", COLOURS)))
    wanted = rng.choice(options)
    found = [who for who in range(min(40, facts.people_at(level))) if getattr(facts.person(seed, who), what) == wanted]
    names = [facts.person(seed, who).name for who in found[:3]]
    result = ", ".join(names) if names else "nobody"
    asked = (
        {
            "trade": f"I am looking for a {wanted}. Who could help me?",
            "food": f"Who likes {plural(wanted)} most?",
            "colour": f"For whom is {wanted} the favourite colour?",
        }[what]
        .replace(" a a", " an a")
        .replace(" a o", " an o")
    )
    return asked, [(f"search({what}, {wanted})", result)], f"I found {result}."


def _hours(rng: random.Random, level: int, seed: int) -> Wish:
    hour, later = rng.randint(0, 23), rng.randint(1, 12 * level)
    result = (hour + later) % 24
    name = rng.choice(NAMES)[0]
    asked = rng.choice(
        (
            f"It is {hour} o'clock. What will the clock show {later} hours later?",
            f"{name} starts at {hour} o'clock and needs {later} hours. When is {name} done?",
            f"If the bell rings at hour {hour}, which hour is it after {later} more?",
        )
    )
    return asked, [(f"clock({hour}, {later})", str(result))], f"At {result} o'clock."


def _nothing(rng: random.Random, level: int, seed: int) -> Wish:
    """Questions that carry their own answer: calling a tool would be a mistake."""
    (one, _), (two, _) = rng.sample(NAMES, 2)
    word = rng.choice(THINGS)
    shape = rng.randrange(3)
    if shape == 0:
        return f"My name is {one} and my friend is {two}. What is my name?", [], one
    if shape == 1:
        return f"{one} has the {word}. {two} has nothing. Who has the {word}?", [], one
    return f"Please repeat after me: {one} saw the {word}.", [], f"{one} saw the {word}."


def _linked(rng: random.Random, level: int, seed: int) -> Wish:
    """A fact about somebody who has to be looked up first."""
    who, what = rng.randrange(facts.people_at(level)), rng.choice(_LOOKED_UP[:6])
    name, at, steps = facts.person(seed, who).name, who, []
    links = [rng.choice(("friend", "teacher")) for _ in range(1 + (level >= 7) + (level >= 10))]
    said = name
    for link in links:
        other = getattr(facts.person(seed, at), link)
        steps.append((f"lookup({link}, {facts.person(seed, at).name})", facts.person(seed, other).name))
        at, said = other, f"the {link} of {said}"
    found = facts.value(seed, at, what)
    steps.append((f"lookup({what}, {facts.person(seed, at).name})", found))
    noun = "year of birth" if what == "born" else what
    return f"Find the {noun} of {said}.", steps, f"It is {found}."


def _lookup_sum(rng: random.Random, level: int, seed: int) -> Wish:
    """Two years looked up, and their difference calculated; or one, and some years later."""
    who = rng.randrange(facts.people_at(level))
    them = facts.person(seed, who)
    if level >= 6 and rng.random() < 0.6:
        friend = facts.person(seed, them.friend)
        gap = f"{max(them.born, friend.born)} - {min(them.born, friend.born)}"
        value = abs(them.born - friend.born)
        steps = [
            (f"lookup(friend, {them.name})", friend.name),
            (f"lookup(born, {them.name})", str(them.born)),
            (f"lookup(born, {friend.name})", str(friend.born)),
            (f"calculator({gap})", str(value)),
        ]
        return f"How many years lie between the births of {them.name} and the best friend?", steps, f"{value} years."
    age = rng.randint(5, 90)
    steps = [(f"lookup(born, {them.name})", str(them.born)), (f"calculator({them.born} + {age})", str(them.born + age))]
    return f"In which year did {them.name} turn {age}?", steps, f"In the year {them.born + age}."
