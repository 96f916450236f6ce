"""Facts of an invented world, and questions about them.

Everything about person or town n follows from (seed, n): the same fact can be told in many articles and asked in many
questions, so that a model can recall it. What is asked is decided by the pair (who, what): a pair that is a
test question is never a training question, while articles of the training split tell it; and the questions of each
split use forms of words of their own. Level ℓ draws on the first 6 · 2^ℓ people (12 at level 1, 6,144 at level 10) and
asks up to three links away.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

from agent_forge.data.documents import Document, Split, Task, split_of, unit_of
from agent_forge.data.synthetic_world.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    GOODS,
    HIS,
    NAMES,
    SELECTION_FRACTION,
    TEST_FRACTION,
    THINGS,
    TRADES,
    TRAITS,
    Item,
    a,
    family_name,
    key_of,
    listed,
    plural,
    river_name,
    stream,
    town_name,
)


@dataclass(frozen=True, slots=True)
class Town:
    """A town of the invented world."""

    name: str
    river: str
    good: str
    founded: int
    ruler: int


@dataclass(frozen=True, slots=True)
class Person:
    """A person of the invented world; ``friend`` and ``teacher`` are numbers of persons, ``town`` of a town."""

    name: str
    they: str
    town: int
    trade: str
    animal: str
    pet: str
    food: str
    colour: str
    treasure: str
    born: int
    trait: str
    friend: int
    teacher: int


def people_at(level: int) -> int:
    """How many people the facts of a level are about."""
    return 6 << level


@lru_cache(maxsize=1 << 14)
def person(seed: int, number: int) -> Person:
    """Person ``number``; friend and teacher are among the first people of the smallest level that holds both."""
    rng = stream("person", seed, number)
    name, they = rng.choice(NAMES)
    circle = max(12, 1 << (number + 1).bit_length())
    friend, teacher = (number + rng.randrange(1, circle)) % circle, (number + rng.randrange(1, circle)) % circle
    return Person(
        f"{name} {family_name(rng)}", they, rng.randrange(max(4, circle // 4)), rng.choice(TRADES), rng.choice(ANIMALS),
        rng.choice(NAMES)[0], rng.choice(FOODS), rng.choice(COLOURS), rng.choice(THINGS), rng.randint(100, 999),
        rng.choice(TRAITS), friend, teacher,
    )  # fmt: skip


@lru_cache(maxsize=1 << 12)
def town(seed: int, number: int) -> Town:
    """Town ``number``."""
    rng = stream("town", seed, number)
    name = f"{town_name(rng)}"
    return Town(name, river_name(rng), rng.choice(GOODS), rng.randint(10, 99), rng.randrange(max(12, 4 * number)))


def value(seed: int, who: int, what: str) -> str:
    """The answer to "what is the ``what`` of person ``who``?"; ``what`` may be linked: ``friend's town``."""
    for link in what.split("'s ")[:-1]:
        who = getattr(person(seed, who), link) if link != "ruler" else town(seed, person(seed, who).town).ruler
    asked, them = what.split("'s ")[-1], person(seed, who)
    if asked in ("friend", "teacher"):
        return person(seed, getattr(them, asked)).name
    home = town(seed, them.town)
    if asked == "ruler":
        return person(seed, home.ruler).name
    if asked in ("river", "good", "founded"):
        return str(getattr(home, asked))
    return home.name if asked == "town" else str(getattr(them, asked))


OWN = ("town", "trade", "animal", "pet", "food", "colour", "treasure", "born", "friend", "teacher")
OF_TOWN = ("river", "good", "ruler", "founded")

_NOUN = {
    "town": "home town", "trade": "trade", "animal": "animal", "pet": "animal's name", "food": "favourite food",
    "colour": "favourite colour", "treasure": "treasure", "born": "year of birth", "friend": "best friend",
    "teacher": "teacher", "river": "river", "good": "export", "ruler": "ruler", "founded": "year of founding",
}  # fmt: skip

_FORMS: dict[Split, dict[str, tuple[str, ...]]] = {
    "train": {
        "town": ("Where does {who} live?", "In which town does {who} live?"),
        "trade": ("What does {who} do for a living?", "What is the trade of {who}?"),
        "animal": ("What animal does {who} keep?", "Which kind of animal belongs to {who}?"),
        "pet": ("What is the name of the animal of {who}?", "How does {who} call {his} animal?"),
        "food": ("What does {who} like to eat most?", "What is the favourite food of {who}?"),
        "colour": ("Which colour does {who} like best?", "What is the favourite colour of {who}?"),
        "treasure": ("What is the treasure of {who}?", "Which thing does {who} guard most?"),
        "born": ("When was {who} born?", "In which year was {who} born?"),
        "friend": ("Who is the best friend of {who}?", "Who is {who}'s best friend?"),
        "teacher": ("Who taught {who}?", "Who is the teacher of {who}?"),
        "river": ("Which river flows through the town where {who} lives?",),
        "good": ("What does the home town of {who} sell?",),
        "ruler": ("Who rules the town where {who} lives?",),
        "founded": ("When was the home town of {who} founded?",),
    },
    "selection": dict.fromkeys(OWN + OF_TOWN, ("Tell me the {noun} of {who}.",)),
    "test": dict.fromkeys(OWN + OF_TOWN, ("{who}: what is known about {his} {noun}?",)),
}


def fact(seed: int, number: int, level: int) -> Item:
    """Item ``number`` of this seed: an article about a person or a town, or a few questions."""
    rng = stream("facts", seed, number, level)
    kind = rng.random()
    if kind < 0.45:
        return _about_person(seed, rng, level)
    if kind < 0.55:
        return _about_town(seed, rng, level)
    return _questions(seed, rng, level)


def _about_person(seed: int, rng: random.Random, level: int) -> Item:
    who = _someone(rng, level)
    them, home = person(seed, who), town(seed, person(seed, who).town)
    They, his = them.they.capitalize(), HIS[them.they]
    name, His = them.name, his.capitalize()
    friend, teacher = person(seed, them.friend).name, person(seed, them.teacher).name
    told = [
        (
            f"{name} is {a(them.trade)} who lives in {home.name}.",
            f"{name} lives in {home.name} and works as {a(them.trade)}.",
            f"In {home.name} lives {name}, {a(them.trait)} {them.trade}.",
        ),
        (
            f"{They} keeps {a(them.animal)} called {them.pet}.",
            f"{them.pet} is the name of {his} {them.animal}.",
            f"{name} has {a(them.animal)}, and its name is {them.pet}.",
        ),
        (
            f"{They} likes {plural(them.food)} and the colour {them.colour}.",
            f"{His} favourite food is {a(them.food)}, {his} favourite colour {them.colour}.",
            f"Nothing pleases {name} more than {a(them.food)}, and {them.they} wears {them.colour}.",
        ),
        (f"{They} was born in the year {them.born}.", f"{His} year of birth is {them.born}."),
        (f"{His} best friend is {friend}.", f"{friend} is the best friend of {name}."),
        (f"{They} learned from {teacher}.", f"{teacher} was {his} teacher.", f"{teacher} taught {name}."),
        (f"{His} treasure is {a(them.treasure)}.", f"{They} would never sell {his} {them.treasure}, {his} treasure."),
        (
            f"{home.name} lies on the {home.river} and is ruled by {person(seed, home.ruler).name}.",
            f"{home.name}, on the river {home.river}, sells {home.good}.",
        ),
    ]
    rest = rng.sample(told[1:], rng.randint(3, len(told) - 1))
    chosen = [rng.choice(forms) for forms in [told[0], *rest]]
    text = " ".join(chosen)
    return Item(Document(text, "facts", level), (), key_of("article", text))


def _about_town(seed: int, rng: random.Random, level: int) -> Item:
    number = person(seed, _someone(rng, level)).town
    home = town(seed, number)
    told = [
        rng.choice(
            (f"{home.name} is a town on the river {home.river}.", f"The {home.river} flows through {home.name}.")
        ),
        rng.choice((f"It was founded in the year {home.founded}.", f"{home.name} was founded in {home.founded}.")),
        rng.choice((f"It is known for its {home.good}.", f"People come to {home.name} to buy {home.good}.")),
        rng.choice(
            (
                f"{person(seed, home.ruler).name} rules {home.name}.",
                f"The ruler of {home.name} is {person(seed, home.ruler).name}.",
            )
        ),
    ]
    living = [who for who in range(min(64, people_at(level))) if person(seed, who).town == number]
    if living:
        told.append(
            f"{listed([person(seed, who).name for who in living[:4]])} {'lives' if len(living) == 1 else 'live'} there."
        )
    rng.shuffle(told)
    text = " ".join(told)
    return Item(Document(text, "facts", level), (), key_of("article", text))


def _someone(rng: random.Random, level: int) -> int:
    """A person of the level, the first ones more often (most facts of a world are told rarely)."""
    return int(people_at(level) * rng.random() ** 2)


def _asked(rng: random.Random, level: int) -> str:
    if level >= 4 and rng.random() < 0.5:
        links = [rng.choice(("friend", "teacher")) for _ in range(1 + (level >= 8 and rng.random() < 0.5))]
        return "'s ".join([*links, rng.choice(OWN[:8])])
    return rng.choice(OWN + (OF_TOWN if level >= 3 else ()))


def _questions(seed: int, rng: random.Random, level: int) -> Item:
    """One to three questions about different pairs that belong to the same split."""
    turns: list[tuple[str, str]] = []
    tasks: list[Task] = []
    pairs: list[tuple[int, str]] = []
    wanted: Split | None = None
    for _ in range(rng.randint(1, 3) * 4):
        who, what = _someone(rng, level), _asked(rng, level)
        split = question_split(seed, who, what)
        if (wanted is not None and split != wanted) or (who, what) in pairs or len(pairs) == 3:
            continue
        wanted = split
        question, answer = _form(seed, rng, who, what, split), value(seed, who, what)
        pairs.append((who, what))
        turns += [("user", question), ("assistant", answer)]
        kind = "link" if "'s " in what else "recall"
        tasks.append(Task(question, answer, f"facts/{kind}", level, "facts"))
        if split != "train":
            break
    assert wanted is not None
    return Item(Document.chat(turns, "facts", level), tuple(tasks), _key_in(wanted, key_of("questions", seed, *pairs)))


def question_split(seed: int, who: int, what: str) -> Split:
    """The only split in which this pair is ever asked."""
    return split_of(key_of("fact", seed, who, what), SELECTION_FRACTION, TEST_FRACTION)


def _key_in(split: Split, key: str) -> str:
    """A key as unique as ``key`` that lies in ``split``: several questions share the split that their pairs have."""
    low, high = {
        "test": (0.0, TEST_FRACTION),
        "selection": (TEST_FRACTION, TEST_FRACTION + SELECTION_FRACTION),
        "train": (TEST_FRACTION + SELECTION_FRACTION, 1.0),
    }[split]
    place = low + (high - low) * (0.001 + 0.998 * unit_of(key))
    return f"{int(place * 16**13):013x}{key[13:]}"


def _form(seed: int, rng: random.Random, who: int, what: str, split: Split) -> str:
    *links, asked = what.split("'s ")
    them = person(seed, who)
    named = them.name
    for link in links:
        named = f"the {_NOUN[link]} of {named}"
    form = rng.choice(_FORMS[split][asked])
    said = form.format(who=named, his="their" if links else HIS[them.they], noun=_NOUN[asked])
    return said[0].upper() + said[1:]
