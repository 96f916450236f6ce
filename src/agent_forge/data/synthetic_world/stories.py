"""Stories: a small world is simulated, and what happens in it is told.

A character wants a thing. To get it, obstacles have to be cleared, each of which may need another thing (backward
chaining, as in TALE-SPIN; Meehan 1977): a key for a lock, a light for the dark, something to trade, food for an
animal that guards the way. Other characters act meanwhile. Every sentence is an action that changed the state, so
that a reader who keeps track can answer what the story is asked about.
"""

from __future__ import annotations

import random

from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world.state import Character, World
from agent_forge.data.synthetic_world.words import (
    ANIMALS,
    BOXES,
    COLOURS,
    FOODS,
    HIM,
    HIS,
    LIGHTS,
    LOOKS,
    NAMES,
    PLACE_LOOKS,
    PLACES,
    THINGS,
    TRADES,
    TRAITS,
    Item,
    a,
    key_of,
    listed,
    stream,
)


def story(seed: int, number: int, level: int) -> Item:
    """Story ``number`` of this seed: level 1 one errand, level 10 five obstacles with four others acting in between."""
    rng = stream("stories", seed, number, level)
    world = _opening(rng, level)
    hero, goal = world.people[0], world.thing(THINGS)
    _want(world, hero, goal)
    depth = (level + 1) // 2
    place = rng.choice([p for p in world.places if p != hero.place])
    _acquire(world, hero, goal, place, depth, errands=[level // 2])
    _ending(world, hero, goal)
    text = _paragraphs(rng, world.told)
    key = key_of("story", text)
    kind, question, answer = _question(world, hero, rng)
    task = Task(f"{text}\n\n{question}", answer, f"stories/{kind}", level, "stories")
    if rng.random() < 0.5:
        return Item(Document(text, "stories", level), (task,), key)
    turns = (("user", task.prompt), ("assistant", answer))
    return Item(Document.chat(turns, "stories", level), (task,), key)


_TIMES = (
    *("One morning", "Long ago", "On a rainy day", "Early in spring", "One winter evening", "After the harvest"),
    *("At dawn", "One quiet afternoon", "On market day", "In the first snow", "Late in summer", "On a windy night"),
)


def _opening(rng: random.Random, level: int) -> World:
    world = World(rng, [])
    for _ in range(4 + level // 2):
        noun = world.fresh(PLACES)
        world.places.append(f"{rng.choice(PLACE_LOOKS)} {noun}" if rng.random() < 0.5 else noun)
    for _ in range(2 + level // 3):
        name, they = rng.choice(NAMES)
        while name in world.used_words:
            name, they = rng.choice(NAMES)
        world.used_words.add(name)
        role = rng.choice(ANIMALS) if rng.random() < 0.35 else rng.choice(TRADES)
        world.people.append(Character(name, they, f"{rng.choice(TRAITS)} {role}", rng.choice(world.places)))
    hero = world.people[0]
    time = rng.choice(_TIMES)
    world.tell(
        f"{time}, {a(hero.role)} named {hero.name} was at the {hero.place}.",
        f"{hero.name} was {a(hero.role)}. {time}, {hero.they} was at the {hero.place}.",
        f"there once was {a(hero.role)} called {hero.name}. {time}, {hero.they} sat at the {hero.place}.",
    )
    for other in world.people[1:]:
        world.tell(
            f"{other.name}, {a(other.role)}, was at the {other.place}.",
            f"at the {other.place} there was {a(other.role)} named {other.name}.",
            f"{hero.name} knew {other.name}, {a(other.role)}, who was at the {other.place}.",
        )
    return world


_PURPOSES = (
    "{name} wanted the {goal}, because {they} had promised it to a friend.",
    "{name} needed the {goal} for the feast.",
    '"If only I had the {goal}," said {name}, "everyone would be happy."',
    "{name} had lost the {goal} long ago and missed it.",
    "{name} dreamed of the {goal} every night.",
    "{name} had heard of the {goal}, and {they} could think of nothing else.",
    "Without the {goal}, {name} could not finish {his} work.",
    "{name}'s mother was ill, and only the {goal} would cheer her up.",
)


def _want(world: World, hero: Character, goal: str) -> None:
    form = world.rng.choice(_PURPOSES)
    world.told.append(form.format(name=hero.name, they=hero.they, his=HIS[hero.they], goal=goal))


def _acquire(world: World, who: Character, thing: str, place: str, depth: int, errands: list[int]) -> None:
    """``who`` gets ``thing``, which is at ``place`` behind ``depth`` obstacles in all."""
    if depth > 1 or (depth == 1 and world.rng.random() < 0.5):
        _obstacle(world, who, thing, place, depth, errands)
        return
    world.lies[thing] = place
    world.tell(
        f"the {thing} lay in the {place}.",
        f"everyone knew that the {thing} was at the {place}.",
        f"{who.name} remembered seeing the {thing} at the {place}.",
        f"someone had left the {thing} at the {place}.",
    )
    _meanwhile(world, who, errands)
    _go(world, who, place, thing)
    _take(world, who, thing)


def _obstacle(world: World, who: Character, thing: str, place: str, depth: int, errands: list[int]) -> None:
    rng = world.rng
    elsewhere = rng.choice([p for p in world.places if p != place])
    kind = rng.choice(("lock", "dark", "guard", "trade") if len(world.people) > 1 else ("lock", "dark", "guard"))
    if kind == "lock":
        box, key = world.thing(BOXES), f"{rng.choice(COLOURS)} key"
        while key in world.used_words:
            key = f"{rng.choice(LOOKS)} {key}"
        world.used_words.add(key)
        world.tell(
            f"the {thing} was in the {box} at the {place}, and the {box} was locked.",
            f"at the {place} stood {a(box)} with the {thing} inside. Only the {key} could open it.",
        )
        world.tell(f"{who.name} had to find the {key} first.", f"so {who.name} needed the {key}.")
        _acquire(world, who, key, elsewhere, depth - 1, errands)
        _go(world, who, place, thing)
        world.tell(
            f"{who.name} turned the {key} in the lock, and the {box} opened.",
            f"the {key} fitted, and the lid of the {box} swung up.",
        )
        world.lies[thing] = place
        _take(world, who, thing)
    elif kind == "dark":
        light = world.thing(LIGHTS) if not set(LIGHTS) <= world.used_words else world.thing(THINGS)
        world.tell(
            f"the {thing} was somewhere in the {place}, but it was too dark to see there.",
            f"the {place}, where the {thing} was kept, was black as ink, so {who.name} needed the {light}.",
        )
        _acquire(world, who, light, elsewhere, depth - 1, errands)
        _go(world, who, place, thing)
        world.tell(
            f"{who.name} held up the {light}, and there in the corner was the {thing}.",
            f"in the glow of the {light}, {who.name} saw the {thing} at last.",
        )
        world.lies[thing] = place
        _take(world, who, thing)
    elif kind == "guard":
        _guard(world, who, thing, place, elsewhere, depth, errands)
    else:
        _trade(world, who, thing, elsewhere, depth, errands)


def _guard(
    world: World, who: Character, thing: str, place: str, elsewhere: str, depth: int, errands: list[int]
) -> None:
    rng = world.rng
    animal, food = f"{rng.choice(LOOKS)} {world.fresh(ANIMALS)}", world.fresh(FOODS)
    world.tell(
        f"{a(animal)} guarded the {thing} at the {place} and let nobody pass.",
        f"the {thing} was at the {place}, but {a(animal)} slept on top of it.",
    )
    world.tell(
        f"the {animal} loved nothing more than {a(food)}, so {who.name} went to look for one.",
        f'"Bring me {a(food)}," said the {animal}, "and I will let you through."',
    )
    thing_food = f"{rng.choice(LOOKS)} {food}"
    _acquire(world, who, thing_food, elsewhere, depth - 1, errands)
    _go(world, who, place, thing)
    if thing_food in who.holds:
        who.holds.remove(thing_food)
    world.lies.pop(thing_food, None)
    world.given.append((who.name, thing_food, f"the {animal}"))
    world.tell(
        f"the {animal} ate the {thing_food} in one bite and went away.",
        f"{who.name} gave the {thing_food} to the {animal}, and the {animal} stepped aside.",
    )
    world.lies[thing] = place
    _take(world, who, thing)


def _trade(world: World, who: Character, thing: str, elsewhere: str, depth: int, errands: list[int]) -> None:
    rng = world.rng
    other = rng.choice([person for person in world.people if person is not who])
    wanted = world.thing(THINGS)
    other.holds.append(thing)
    world.promised.add(thing)
    world.tell(
        f"{other.name} had the {thing}, and would only give it away for the {wanted}.",
        f'"You may have my {thing}," said {other.name}, "if you bring me the {wanted}."',
    )
    _acquire(world, who, wanted, elsewhere, depth - 1, errands)
    _go(world, who, other.place, thing)
    if wanted in who.holds:
        who.holds.remove(wanted)
    other.holds.append(wanted)
    other.holds.remove(thing)
    who.holds.append(thing)
    world.given.append((who.name, wanted, other.name))
    world.taken.append((who.name, thing))
    world.tell(
        f"{who.name} gave the {wanted} to {other.name} and got the {thing} for it.",
        f"{other.name} was glad to have the {wanted}, and handed the {thing} to {who.name}.",
        f"they traded: {other.name} kept the {wanted}, {who.name} took the {thing}.",
    )


def _go(world: World, who: Character, place: str, thing: str) -> None:
    if who.place == place:
        world.tell(f"{who.name} was already at the {place}.", f"{who.name} looked around the {place}.")
        return
    start, who.place = who.place, place
    world.reasons.append((who.name, place, thing))
    world.tell(
        f"{who.name} went from the {start} to the {place}.",
        f"so {who.name} walked to the {place}.",
        f"{who.name} left the {start} and hurried to the {place}.",
        f"it was a long way to the {place}, but {who.name} did not stop.",
        f"{who.name} ran all the way to the {place}.",
        f"through wind and mud {who.name} came to the {place}.",
    )


def _take(world: World, who: Character, thing: str) -> None:
    world.lies.pop(thing, None)
    who.holds.append(thing)
    world.taken.append((who.name, thing))
    world.tell(
        f"{who.name} took the {thing}.",
        f"{who.name} picked up the {thing} and kept it.",
        f"there was the {thing}. {who.name} put it in {HIS[who.they]} bag.",
        f"now {who.name} had the {thing}.",
    )


def _meanwhile(world: World, hero: Character, errands: list[int]) -> None:
    """The others act: they carry things that the hero's plan does not need."""
    for _ in range(errands[0]):
        other = world.rng.choice(world.people[1:])
        act = world.rng.random()
        if act < 0.45:
            thing = world.thing(THINGS if world.rng.random() < 0.7 else FOODS)
            other.holds.append(thing)
            world.tell(
                f"meanwhile {other.name} found {a(thing)} and took it along.",
                f"at the same time {other.name} picked up {a(thing)} at the {other.place}.",
            )
        elif act < 0.75:
            _wander(world, other)
        else:
            _hand_over(world, hero, other)
    errands[0] = 0


def _wander(world: World, other: Character) -> None:
    other.place = world.rng.choice([place for place in world.places if place != other.place])
    world.tell(
        f"meanwhile {other.name} moved to the {other.place}.",
        f"{other.name} got bored and walked over to the {other.place}.",
        f"then {other.name} left for the {other.place}.",
    )


def _hand_over(world: World, hero: Character, other: Character) -> None:
    friends = [person for person in world.people if person not in (hero, other)]
    found = [thing for thing in other.holds if thing not in world.promised]
    if not friends or not found:
        _wander(world, other)
        return
    friend, thing = world.rng.choice(friends), found[-1]
    other.holds.remove(thing)
    friend.holds.append(thing)
    other.place = friend.place
    world.given.append((other.name, thing, friend.name))
    world.tell(
        f"{other.name} went to the {friend.place} and gave the {thing} to {friend.name}.",
        f"{other.name} met {friend.name} at the {friend.place} and left the {thing} with {HIM[friend.they]}.",
    )


_ENDINGS = (
    "{name} was tired but happy.",
    "That night {name} slept well.",
    '"It was worth it," said {name}.',
    "From then on, {name} never gave up too soon.",
    "And everyone asked {name} to tell the tale again.",
    "{name} laughed, because it had been simpler than it looked.",
    "{name} thanked all who had helped.",
    "So {name} learned that asking first saves a long walk.",
)


def _ending(world: World, hero: Character, goal: str) -> None:
    home = world.rng.choice(world.places)
    if world.rng.random() < 0.6 and home != hero.place:
        hero.place = home
        world.tell(
            f"{hero.name} carried the {goal} to the {home}.", f"then {hero.name} went to the {home} with the {goal}."
        )
        if world.rng.random() < 0.5:
            hero.holds.remove(goal)
            world.lies[goal] = home
            world.tell(
                f"{hero.they} left the {goal} there.", f"there {hero.they} put the {goal} down where all could see it."
            )
    world.told.append(world.rng.choice(_ENDINGS).format(name=hero.name))


def _paragraphs(rng: random.Random, told: list[str]) -> str:
    paragraphs, at = [], 0
    while at < len(told):
        count = rng.randint(3, 6)
        paragraphs.append(" ".join(told[at : at + count]))
        at += count
    return "\n".join(paragraphs)


def _question(world: World, hero: Character, rng: random.Random) -> tuple[str, str, str]:
    """(kind, question, answer) about the state at the end or the way there."""
    asked: list[tuple[str, str, str]] = []
    for person in world.people:
        asked.append(("where", f"Where is {person.name} at the end?", f"the {person.place}"))
        for thing in person.holds:
            asked.append(("who", f"Who has the {thing} at the end?", person.name))
            asked.append(("thing", f"Where is the {thing} at the end?", f"the {person.place}"))
    asked += [("thing", f"Where is the {thing} at the end?", f"the {place}") for thing, place in world.lies.items()]
    asked += [("given", f"Who was given the {thing} by {giver}?", to) for giver, thing, to in world.given]
    mine = [thing for name, thing in world.taken if name == hero.name]
    if len(mine) > 1:
        asked.append(("order", f"What did {hero.name} get first?", f"the {mine[0]}"))
        asked.append(("order", f"What did {hero.name} get last?", f"the {mine[-1]}"))
        place = rng.randrange(len(mine) - 1)
        asked.append(("order", f"What did {hero.name} get right after the {mine[place]}?", f"the {mine[place + 1]}"))
    if hero.holds:
        asked.append(
            (
                "holds",
                f"What does {hero.name} have at the end?",
                "the " + listed(hero.holds).replace(" and ", " and the ").replace(", ", ", the "),
            )
        )
    kinds = sorted({kind for kind, _, _ in asked})
    kind = rng.choice(kinds)
    return rng.choice([entry for entry in asked if entry[0] == kind])
