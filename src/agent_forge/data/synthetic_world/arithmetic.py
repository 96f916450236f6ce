"""Word problems with worked steps; every number is computed, none is drawn.

Levels set the number of steps and the size of the numbers; from level 6 on some problems state their quantities in
shuffled order, so that the order of the steps has to be found (as in iGSM; Ye et al. 2024, arXiv:2407.20311), and
some hold numbers that do not matter.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world.words import (
    BOXES,
    COLOURS,
    FOODS,
    NAMES,
    PLACES,
    THINGS,
    Item,
    a,
    key_of,
    listed,
    plural,
    some,
    stream,
)

Problem = tuple[str, list[str], int]
"""Question, worked steps, answer."""


def problem(seed: int, number: int, level: int) -> Item:
    """Problem ``number`` of this seed."""
    rng = stream("arithmetic", seed, number, level)
    kind = rng.choice(_KINDS_BY_LEVEL[level])
    question, steps, answer = _KINDS[kind](rng, level)
    worked = "\n".join([*steps, f"The answer is {answer}."])
    task = Task(question, str(answer), f"arithmetic/{kind}", level, "arithmetic")
    # The key holds the sums alone: the same sums in other words or about other things are in the same split.
    document = Document.chat((("user", question), ("assistant", worked)), "arithmetic", level)
    return Item(document, (task,), key_of("arithmetic", *steps))


def _size(level: int) -> int:
    """Largest starting number of a level: 20 at level 1, 4,000 at level 10."""
    return (20, 30, 50, 90, 150, 250, 500, 1000, 2000, 4000)[level - 1]


def _running(rng: random.Random, level: int) -> Problem:
    """One quantity that changes."""
    (name, they), thing = rng.choice(NAMES), plural(rng.choice(THINGS))
    total = rng.randint(2, _size(level))
    said, steps = [f"{name} has {total} {thing}."], []
    for _ in range(1 + level // 2):
        sentence, step, total = _event(rng, level, name, they, thing, total)
        said.append(sentence)
        steps.append(step)
    said.append(
        rng.choice((f"How many {thing} does {name} have now?", f"How many {thing} are left with {name} in the end?"))
    )
    return " ".join(said), steps, total


def _event(rng: random.Random, level: int, name: str, they: str, thing: str, total: int) -> tuple[str, str, int]:
    They = they.capitalize()
    options = ["gain", "boxes"] + ["lose"] * (total > 3) + ["multiply"] * (level >= 3 and total < 5000)
    divisors = [d for d in range(2, 10) if total and total % d == 0]
    kind = rng.choice(options + ["share"] * (level >= 3 and bool(divisors)))
    if kind == "gain":
        n = rng.randint(1, _size(level))
        sentence = rng.choice(
            (f"{They} finds {n} more.", f"A friend gives {name} {n} more.", f"Then {they} buys {n} {thing}.")
        )
        return sentence, f"{total} + {n} = {total + n}", total + n
    if kind == "lose":
        n = rng.randint(1, total - 1)
        sentence = rng.choice(
            (f"{They} gives away {n}.", f"Then {n} of them break.", f"{name} sells {n} {thing} at the market.")
        )
        return sentence, f"{total} - {n} = {total - n}", total - n
    if kind == "boxes":
        boxes, each = rng.randint(2, 3 + level), rng.randint(2, 4 + 2 * level)
        box = rng.choice(BOXES)
        sentence = f"{They} opens {boxes} {plural(box)} with {each} {thing} in each and keeps them all."
        return (
            sentence,
            f"{boxes} * {each} = {boxes * each}, {total} + {boxes * each} = {total + boxes * each}",
            total + boxes * each,
        )
    if kind == "multiply":
        by, word = rng.choice(((2, "twice"), (3, "three times"), (4, "four times")))
        return f"By spring {they} has {word} as many.", f"{total} * {by} = {total * by}", total * by
    by = rng.choice(divisors)
    left = total // by
    return f"{They} shares them equally among {by} people, {they} being one of them.", f"{total} / {by} = {left}", left


def _compare(rng: random.Random, level: int) -> Problem:
    """Several people, each described by another."""
    names = [name for name, _ in some(rng, NAMES, 2 + level // 3)]
    thing = plural(rng.choice(THINGS))
    amounts = [rng.randint(3, _size(level))]
    said, steps = [f"{names[0]} has {amounts[0]} {thing}."], []
    for place in range(1, len(names)):
        of = rng.randrange(place)
        kind = rng.choice(("more", "fewer", "times") if level > 2 else ("more", "fewer"))
        if kind == "fewer" and amounts[of] < 3:
            kind = "more"
        n = rng.randint(1, _size(level)) if kind == "more" else rng.randint(1, max(1, amounts[of] - 1))
        if kind == "times":
            n = rng.randint(2, 5)
            amounts.append(amounts[of] * n)
            said.append(f"{names[place]} has {n} times as many {thing} as {names[of]}.")
            steps.append(f"{names[place]}: {amounts[of]} * {n} = {amounts[-1]}")
        else:
            sign = 1 if kind == "more" else -1
            amounts.append(amounts[of] + sign * n)
            said.append(f"{names[place]} has {n} {kind} {thing} than {names[of]}.")
            steps.append(f"{names[place]}: {amounts[of]} {'+' if sign > 0 else '-'} {n} = {amounts[-1]}")
    if level >= 6:
        rest = said[1:]
        rng.shuffle(rest)
        said = [*rest, said[0]] if rng.random() < 0.5 else [said[0], *rest]
    if rng.random() < 0.4:
        return f"{' '.join(said)} How many {thing} does {names[-1]} have?", steps, amounts[-1]
    total, chain = amounts[0], []
    for amount in amounts[1:]:
        chain.append(f"{total} + {amount} = {total + amount}")
        total += amount
    return f"{' '.join(said)} How many {thing} do they have together?", [*steps, ", ".join(chain)], total


def _price(rng: random.Random, level: int) -> Problem:
    """Shopping, and the change."""
    name, they = rng.choice(NAMES)
    goods = some(rng, FOODS + THINGS, 1 + level // 3)
    bought, steps, total = [], [], 0
    for good in goods:
        count, price = rng.randint(2, 4 + level), rng.randint(2, 5 + 3 * level)
        bought.append(f"{count} {plural(good)} at {price} coins each")
        steps.append(f"{plural(good)}: {count} * {price} = {count * price}")
        if total:
            steps.append(f"{total} + {count * price} = {total + count * price}")
        total += count * price
    said = f"{name} buys {listed(bought)}."
    if level >= 4 and rng.random() < 0.5 and total % 10 == 0:
        off = total // 10
        said += " The seller takes a tenth off the whole price."
        steps.append(f"{total} / 10 = {off}, {total} - {off} = {total - off}")
        total -= off
    if rng.random() < 0.5:
        paid = total + rng.randint(1, _size(level))
        steps.append(f"{paid} - {total} = {paid - total}")
        return (
            f"{said} {they.capitalize()} pays with {paid} coins. How many coins does {name} get back?",
            steps,
            paid - total,
        )
    return f"{said} How many coins does {they} pay?", steps, total


def _journey(rng: random.Random, level: int) -> Problem:
    """Legs of a way with speed and time."""
    name, _ = rng.choice(NAMES)
    legs, steps, total = [], [], 0
    for _ in range(1 + level // 3):
        speed, hours = rng.randint(2, 6 + 4 * level), rng.randint(2, 3 + level)
        how = rng.choice(("walks", "rides", "sails", "drives a cart", "flies on a goose"))
        legs.append(f"{how} for {hours} hours at {speed} miles an hour")
        steps.append(f"{hours} * {speed} = {hours * speed}")
        if total:
            steps.append(f"{total} + {hours * speed} = {total + hours * speed}")
        total += hours * speed
    said = f"{name} {', then '.join(legs)}."
    if level >= 5:
        whole = total + rng.randint(5, _size(level))
        steps.append(f"{whole} - {total} = {whole - total}")
        return f"{said} The whole way is {whole} miles. How many miles are left?", steps, whole - total
    return f"{said} How many miles is that in all?", steps, total


def _share(rng: random.Random, level: int) -> Problem:
    """Percent and remainders."""
    name, _ = rng.choice(NAMES)
    thing = plural(rng.choice(FOODS))
    if rng.random() < 0.5:
        percent, unit = rng.choice((10, 20, 25, 30, 40, 50, 60, 75, 80, 90)), rng.randint(1, 2 * level + 2)
        whole = unit * 20
        part = whole * percent // 100
        question = f"{name} has {whole} {thing} and sells {percent} percent of them. How many {thing} are left?"
        return question, [f"{whole} * {percent} / 100 = {part}", f"{whole} - {part} = {whole - part}"], whole - part
    people, each = rng.randint(2, 5 + level), rng.randint(2, _size(level) // 4 + 2)
    rest = rng.randint(0, people - 1)
    whole = people * each + rest
    said = f"{name} shares {whole} {thing} among {people} people, as many as possible for each, all the same."
    question = f"{said} How many are left over?"
    return question, [f"{people} * {each} = {people * each}", f"{whole} - {people * each} = {rest}"], rest


def _clock(rng: random.Random, level: int) -> Problem:
    """Hours that wrap around."""
    start, after = rng.randint(0, 23), rng.randint(1, 6 * level)
    name, _ = rng.choice(NAMES)
    total = start + after
    end = total % 24
    steps = [f"{start} + {after} = {total}"]
    if total >= 24:
        steps.append(f"{total} - {total - end} = {end}")
    said = f"On a clock with 24 hours it is {start} o'clock when {name} leaves. {name} comes back {after} hours later."
    question = f"{said} What hour does the clock show then?"
    return question, steps, end


def _expression(rng: random.Random, level: int) -> Problem:
    """A bare expression with brackets, worked from the inside."""
    size = 5 + 5 * level
    value = rng.randint(1, size)
    text, steps, closed = str(value), [], True
    for _ in range(1 + level // 2):
        op, n = rng.choice("+-*" if level > 1 and abs(value) < 2000 else "+-"), rng.randint(2, size)
        n = rng.randint(2, 3 + level) if op == "*" else n
        result = {"+": value + n, "-": value - n, "*": value * n}[op]
        text = f"({text}) {op} {n}" if op == "*" and not closed else f"{text} {op} {n}"
        steps.append(f"{value} {op} {n} = {result}")
        value, closed = result, op == "*"
    opening = rng.choice(("What is {}?", "Compute {}.", "Work out {}.", "Find the value of {}."))
    return opening.format(text), steps, value


def _dependency(rng: random.Random, level: int) -> Problem:
    """Quantities that depend on others, told in shuffled order, some of them not needed."""
    places, thing, box = some(rng, PLACES, 3 + level // 2), plural(rng.choice(FOODS)), plural(rng.choice(BOXES))
    amounts = [rng.randint(2, 9 + level)]
    told, steps = [f"There are {amounts[0]} {thing} at the {places[0]}."], [""]
    parents: list[tuple[int, ...]] = [()]
    for place in range(1, len(places)):
        of = tuple(sorted(some(rng, range(place), 2 if place > 1 and rng.random() < 0.5 else 1)))
        n = rng.randint(2, 4 + level)
        if len(of) == 2:
            amounts.append(amounts[of[0]] + amounts[of[1]])
            told.append(
                f"At the {places[place]} there are as many {thing} "
                f"as at the {places[of[0]]} and the {places[of[1]]} together."
            )
            steps.append(f"{places[place]}: {amounts[of[0]]} + {amounts[of[1]]} = {amounts[-1]}")
        elif rng.random() < 0.5 and amounts[of[0]] < 2000:
            n = rng.randint(2, 4)
            amounts.append(amounts[of[0]] * n)
            told.append(
                f"At the {places[place]} there are {n} {box}, each with as many {thing} as lie at the {places[of[0]]}."
            )
            steps.append(f"{places[place]}: {n} * {amounts[of[0]]} = {amounts[-1]}")
        else:
            amounts.append(amounts[of[0]] + n)
            told.append(f"At the {places[place]} there are {n} more {thing} than at the {places[of[0]]}.")
            steps.append(f"{places[place]}: {amounts[of[0]]} + {n} = {amounts[-1]}")
        parents.append(of)
    asked = rng.randrange(len(places) // 2, len(places))
    needed, todo = set(), [asked]
    while todo:
        now = todo.pop()
        needed.add(now)
        todo += parents[now]
    rng.shuffle(told)
    question = f"{' '.join(told)} How many {thing} are at the {places[asked]}?"
    return question, [f"{places[0]}: {amounts[0]}", *(steps[p] for p in sorted(needed) if p)], amounts[asked]


def _sequence(rng: random.Random, level: int) -> Problem:
    """What comes next."""
    step, start, shown = rng.randint(2, 4 + 2 * level), rng.randint(1, _size(level)), rng.randint(4, 6)
    if level >= 5 and rng.random() < 0.5:
        grow = rng.randint(1, level)
        numbers, gap = [start], step
        for _ in range(shown):
            numbers.append(numbers[-1] + gap)
            gap += grow
        steps = [
            f"the gaps grow by {grow}",
            f"the next gap is {gap - grow}",
            f"{numbers[-2]} + {gap - grow} = {numbers[-1]}",
        ]
    else:
        numbers = [start + step * place for place in range(shown + 1)]
        steps = [f"{numbers[1]} - {numbers[0]} = {step}", f"{numbers[-2]} + {step} = {numbers[-1]}"]
    shown_numbers = ", ".join(map(str, numbers[:-1]))
    what = rng.choice((a(rng.choice(COLOURS)) + " lantern", "each step", "each stone of the tower", "each page"))
    return f"There is a number on {what}: {shown_numbers}. Which number comes next?", steps, numbers[-1]


_KINDS: dict[str, Callable[[random.Random, int], Problem]] = {
    "running": _running,
    "compare": _compare,
    "price": _price,
    "journey": _journey,
    "share": _share,
    "clock": _clock,
    "expression": _expression,
    "sequence": _sequence,
    "dependency": _dependency,
}
_KINDS_BY_LEVEL = {
    level: tuple(
        kind
        for kind in _KINDS
        if (kind != "dependency" or level >= 4) and (kind not in ("share", "journey", "sequence") or level >= 2)
    )
    for level in range(1, 11)
}
