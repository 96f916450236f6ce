"""The synthetic world: text of our own, made by programs, with exact answers.

Item n of a seed is a pure function of (seed, n). Its split follows from what it is about (`Item.key`), so that
train, selection and test are disjoint by construction, for every seed and every size. Five domains: ``stories`` (a
simulated world, told), ``arithmetic`` (worked word problems), ``code`` (programs and what they print), ``facts`` (an
invented world and questions), ``tools`` (which tool, with what). Ten levels of difficulty in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

from agent_forge.data.synthetic_world.arithmetic import problem
from agent_forge.data.synthetic_world.code import program
from agent_forge.data.synthetic_world.facts import fact
from agent_forge.data.synthetic_world.personas import tool_conversation
from agent_forge.data.synthetic_world.stories import story
from agent_forge.data.synthetic_world.words import Item

TOOLS = "tools"

MAKERS: dict[str, Callable[[int, int, int], Item]] = {
    "stories": story,
    "arithmetic": problem,
    "code": program,
    "facts": fact,
    TOOLS: tool_conversation,
}
DOMAINS = tuple(MAKERS)
LEVELS = tuple(range(1, 11))

__all__ = ["DOMAINS", "LEVELS", "TOOLS", "Item", "generate"]


def generate(seed: int, domain: str, levels: Sequence[int] = LEVELS, *, start: int = 0) -> Iterator[Item]:
    """Endless items of one domain, the levels in turn.

    Args:
        seed: of the world; the same seed has the same people and towns.
        domain: one of `DOMAINS`.
        levels: which of 1–10.
        start: number of the first item; item n does not depend on where one starts.

    Raises:
        ValueError: unknown domain, or a level outside 1–10.
    """
    if domain not in MAKERS:
        raise ValueError(f"unknown domain {domain!r}; the synthetic world has {', '.join(DOMAINS)}")
    if not levels or any(level not in LEVELS for level in levels):
        raise ValueError(f"levels {list(levels)} are not all in 1–10")
    for number in count(start):
        yield MAKERS[domain](seed, number, levels[number % len(levels)])
