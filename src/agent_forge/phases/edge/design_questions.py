"""Questions of mixed kinds for the search of a design: worked thoughts, calls of tools, and neither.

Kinds and levels are kept on which the agent, asked once, is right in 20–80% of the cases: elsewhere no design can make
a difference. What is kept is decided on the selection split; the verdict is on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

from agent_forge.agent.tool_exam import distinct, expected, says
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript
from agent_forge.data.documents import Split
from agent_forge.data.practice import worked_thoughts
from agent_forge.data.practice_dialogues import exchanges
from agent_forge.evaluation.tasks import normalised

_MISSES = 400
HEAD_ROOM = (0.2, 0.8)


@dataclass(frozen=True)
class Problem:
    """A question with one right answer.

    Attributes:
        ask: what the user says.
        core: the right answer, or the words that it holds.
        kind: such as ``view`` or ``calculator``.
        level: difficulty 1–10.
        calls: whether a tool is needed; None = it does not matter how the answer was found.
    """

    ask: str
    core: str
    kind: str
    level: int
    calls: bool | None = None

    @property
    def family(self) -> str:
        """Kind and level."""
        return f"{self.kind} {self.level}"

    def is_right(self, transcript: Transcript) -> bool:
        """Whether these steps answer it, in any persona; a tool where one is needed, none where none is."""
        if self.calls is None:
            return normalised(transcript.answer) == normalised(self.core)
        return says(transcript.answer, self.core) and bool(transcript.calls) == self.calls


Source: TypeAlias = Callable[[Split], Iterator[Problem]]


def sources(
    practice: Mapping[str, Any] | None,
    toolbox: Toolbox | None,
    *,
    world: int,
    seed: int = 0,
    thought_levels: Sequence[int] = (3, 4, 5),
    tool_levels: Sequence[int] = (2, 4, 5),
) -> dict[str, Source]:
    """Family → its questions, different ones, in one order for each split.

    Args:
        practice: the fact ``practice`` of a checkpoint that thinks (seed, strategies); None = no thoughts.
        toolbox: the agent's tools; None = no calls.
        world: seed of the people that the agent knows.
        seed: other seeds give other questions.
        thought_levels, tool_levels: of difficulty.
    """
    found: dict[str, Source] = {}
    for level in thought_levels if practice else ():
        for name in practice["strategies"] if practice else ():
            found[f"{name} {level}"] = _thoughts(int(practice["seed"]) + seed, name, level)  # type: ignore[index]
    if toolbox is None:
        return found
    for level in tool_levels:
        found[f"no tool {max(2, level)}"] = _calls(toolbox, world, seed, "no tool", max(2, level))
        for name in (*toolbox.tools, "several calls"):
            found[f"{name} {level}"] = _calls(toolbox, world, seed, name, level)
    return found


def _thoughts(seed: int, strategy: str, level: int) -> Source:
    def read(split: Split) -> Iterator[Problem]:
        for item in worked_thoughts(seed, split, [level], [strategy]):
            task = item.tasks[0]
            yield Problem(task.prompt, task.answer, strategy, level)

    return read


def _calls(toolbox: Toolbox, world: int, seed: int, kind: str, level: int) -> Source:
    single = kind in toolbox
    tools = (kind,) if single else () if kind == "no tool" else tuple(toolbox.tools)

    def read(split: Split) -> Iterator[Problem]:
        misses = 0
        for exchange in exchanges(seed, [level], split, world=world, tools=tools):
            steps = len(exchange.steps)
            fits = steps == 0 if kind == "no tool" else steps == 1 if single else steps > 1
            core = expected(exchange, toolbox) if fits else None
            misses = 0 if core is not None else misses + 1
            if misses > _MISSES:
                return
            if core is not None:
                yield Problem(exchange.ask, core, kind, level, calls=steps > 0)

    return read


def draw(source: Source, split: Split, count: int) -> list[Problem]:
    """The first ``count`` different questions of a family; fewer where it has no more."""
    try:
        return distinct(source(split), count)
    except ValueError:  # no such question at this level
        return []


def mixed(families: Mapping[str, Source], split: Split, count: int) -> list[Problem]:
    """``count`` questions, the families in turn; fewer where they have no more."""
    each = -(-count // max(1, len(families)))
    drawn = [draw(source, split, each) for source in families.values()]
    turns = [group[place] for place in range(each) for group in drawn if place < len(group)]
    return list(islice(turns, count))


def with_head_room(
    families: Mapping[str, Source], accuracy: Callable[[Sequence[Problem]], Sequence[bool]], questions: int
) -> tuple[dict[str, Source], dict[str, float]]:
    """The families with head-room for the agent asked once, and the accuracy on each of all.

    Args:
        families: of `sources`.
        accuracy: whether it is right, question by question.
        questions: of each family, from the selection split.
    """
    asked = {name: draw(source, "selection", questions) for name, source in families.items()}
    right = accuracy([problem for group in asked.values() for problem in group])
    shares: dict[str, float] = {}
    at = 0
    for name, group in asked.items():
        if len(group) >= questions // 2:
            shares[name] = sum(right[at : at + len(group)]) / max(1, len(group))
        at += len(group)
    low, high = HEAD_ROOM
    return {name: families[name] for name, share in shares.items() if low <= share <= high}, shares
