"""Practice in following prompts: dialogues with a list of tools, with a persona, with both and with neither.

Questions come from `synthetic_world.tools`, each about the people of a world of its own, so that names have to be
copied and cannot be learned by heart. Personas are made up from words: a model that has practised with thousands of
them can follow one that it never saw. The split of a question follows from what it asks, as everywhere in the world.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent_forge.data.documents import Document, Split, Turn
from agent_forge.data.synthetic_world.personas import Persona, persona
from agent_forge.data.synthetic_world.tools import TOOLS, tool_question
from agent_forge.data.synthetic_world.words import Item, stream

_TOOLS_LINE = "\nTools: "
_MISSES = 3000


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question with the calls that answer it.

    Attributes:
        ask: what the user says, without a list of tools.
        steps: call and result, in order; none where no tool is needed.
        answer: what is said in the end, in no persona.
        level: difficulty 1–10.
        split: where it belongs.
    """

    ask: str
    steps: tuple[tuple[str, str], ...]
    answer: str
    level: int
    split: Split

    @property
    def tool(self) -> str:
        """The tool of the first call; ``none`` where there is none."""
        return self.steps[0][0].partition("(")[0] if self.steps else "none"

    @property
    def core(self) -> str:
        """The words that a right answer holds in any persona: the last result, or the whole answer without calls."""
        return self.steps[-1][1] if self.steps else self.answer.rstrip(".")

    @classmethod
    def of(cls, item: Item) -> Exchange:
        """The exchange of an item of the ``tools`` domain."""
        turns = item.document.turns
        ask = turns[0][1].split(_TOOLS_LINE)[0]
        results = [text.removeprefix("result: ") for role, text in turns[1:] if role == "user"]
        calls = [text for role, text in turns if role == "assistant"]
        steps = tuple(zip(calls[:-1], results, strict=True))
        return cls(ask, steps, calls[-1], item.document.level or 1, item.split)


def exchanges(
    seed: int, levels: Sequence[int], split: Split, *, world: int | None = None, tools: Sequence[str] = tuple(TOOLS)
) -> Iterator[Exchange]:
    """Endless exchanges of one split.

    Args:
        seed: of the questions.
        levels: of difficulty, in turn.
        split: which of them.
        world: seed of the people; None = people of a new world in every question.
        tools: questions that need any other tool are left out; without tools the levels are 2 and above.

    Raises:
        ValueError: these levels hold no such question.
    """
    if not tools:
        levels = [max(2, level) for level in levels]
    number = found_at = 0
    while True:
        if number - found_at > _MISSES:
            raise ValueError(f"levels {list(levels)} have no question of the {split} split for the tools {list(tools)}")
        people = stream("world", seed, number).getrandbits(40) if world is None else world
        item = tool_question(people, seed * 1_000_003 + number, levels[number % len(levels)], world=people)
        number += 1
        if item.split != split:
            continue
        found = Exchange.of(item)
        if all(call.partition("(")[0] in tools for call, _ in found.steps):
            found_at = number
            yield found


def tools_line(rng: random.Random | None, tools: Sequence[str] = tuple(TOOLS)) -> str:
    """The list of tools as a question ends with it; in random order where ``rng`` is given."""
    offered = [TOOLS[name] for name in tools]
    if rng is not None:
        rng.shuffle(offered)
    return f"{_TOOLS_LINE}{'; '.join(offered)}."


def dialogue(
    asked: Sequence[Exchange], *, persona: Persona | None = None, tools: str = "", said: Sequence[str] = ()
) -> Document:
    """A conversation in which every question is answered as the prompts say.

    Args:
        asked: questions in order.
        persona: named in a system turn, and shown in every answer.
        tools: line with the list of tools, at the end of the first question; empty = no prompt.
        said: answers to use instead of the right ones, one for each exchange.
    """
    turns: list[Turn] = [("system", persona.prompt)] if persona else []
    for place, exchange in enumerate(asked):
        turns.append(("user", exchange.ask + (tools if place == 0 else "")))
        for call, result in exchange.steps:
            turns += [("assistant", call), ("user", f"result: {result}")]
        answer = said[place] if said else exchange.answer
        turns.append(("assistant", persona.says(answer) if persona and not said else answer))
    return Document.chat(turns, "practice", max(exchange.level for exchange in asked))


def practice(
    seed: int,
    levels: Sequence[int],
    *,
    tools: Sequence[str] = tuple(TOOLS),
    not_persona: Persona | None = None,
    split: Split = "train",
) -> Iterator[Document]:
    """Endless dialogues: six of eight with tools, half of all with a persona.

    Without a list of tools only such questions are asked that need none: nothing is taught there about tools.

    Args:
        seed: of everything.
        levels: of the questions.
        tools: that are offered and practised.
        not_persona: opening and closing of this one never occur, so that it is followed and not remembered.
        split: of the questions.
    """
    source = exchanges(seed, levels, split, tools=tools)
    idle = exchanges(seed + 1, levels, split, tools=())
    number = 0
    while True:
        rng = stream("practice", seed, number)
        # what needs no tool is learnt in no time, which of several to call and what to copy is not
        with_tools, with_persona = number % 8 < 6, number % 2 == 0
        number += 1
        who = persona(rng)
        while not_persona and (who.opening[:-1] in not_persona.opening or who.closing[:-1] in not_persona.closing):
            who = persona(rng)
        count = rng.choice((1, 1, 2, 3)) if with_tools else rng.choice((1, 2, 4, 6))
        asked = [next(source if with_tools else idle) for _ in range(count)]
        line = tools_line(rng, tools) if with_tools and tools else ""
        yield dialogue(asked, persona=who if with_persona else None, tools=line)
