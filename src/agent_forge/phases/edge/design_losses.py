"""What a design loses where the search did not look.

A design is chosen by questions of the few families that have head-room, and is then used for every question. So it is
asked others, too, against the agent's habit, question by question: about tools, needing none, thoughts whose families
were not searched, and ordinary ones. It may be chosen only if it is shown to lose little there: the upper end of the
interval of its loss is bounded as that of a cut is (`agent_forge.phases.edge.pruning`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TypeAlias

from agent_forge.agent.abilities import NO_CALL, TOOLS
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.tool_exam import expected, says
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Exchange
from agent_forge.evaluation.statistics import surely_lost
from agent_forge.evaluation.tasks import normalised
from agent_forge.phases.edge.design_questions import Problem, Source, draw, mixed
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.phases.edge.pruning import Limits, too_few, too_much
from agent_forge.phases.edge.skills import ordinary

THOUGHTS, ORDINARY = "thoughts", "ordinary"
_TOGETHER = "what was not searched"
_STEP = 32
"""Questions after which a design that has lost too much already is asked no more."""


@dataclass(frozen=True)
class OrdinaryProblem(Problem):
    """A question of the corpus: the right words in the answer count, with a call or without."""

    def is_right(self, transcript: Transcript) -> bool:
        """Whether these steps answer it, in any persona."""
        return says(normalised(transcript.answer), normalised(self.core))


@dataclass(frozen=True)
class Asked:
    """A question with the tools that are at hand, and what it is about."""

    ability: str
    toolbox: Toolbox | None
    problem: Problem


Exam: TypeAlias = Callable[[Split, int], Sequence[tuple[Toolbox, Sequence[Exchange]]]]
"""About so many questions of a split, with the tools of their world."""
Draw: TypeAlias = Callable[[Split], Sequence[Asked]]
"""The questions of a split."""


def elsewhere(
    exam: Exam,
    families: Mapping[str, Source],
    searched: Collection[str],
    corpus: Corpus,
    toolbox: Toolbox | None,
    count: int,
) -> Draw:
    """Questions outside of the searched families, those of each ability in turn.

    Args:
        exam: questions about tools; a quarter and more need none.
        families: all that a search could have had (`agent_forge.phases.edge.design_questions.sources`).
        searched: names of those that it had.
        corpus: for ordinary questions.
        toolbox: of the agent, for thoughts and ordinary questions.
        count: questions; where there are no tools or no thoughts, more ordinary ones.
    """

    def questions(split: Split) -> list[Asked]:
        groups: dict[str, list[Asked]] = {TOOLS: [], NO_CALL: [], THOUGHTS: [], ORDINARY: []}
        for box, exchanges in exam(split, 2 * count):
            for exchange in exchanges:
                core, problem = expected(exchange, box), _problem(exchange)
                if core is not None and problem.family not in searched:
                    groups[TOOLS if problem.calls else NO_CALL].append(Asked("", box, replace(problem, core=core)))
        left = {name: each for name, each in families.items() if name not in searched and _thinks(each, split)}
        groups[THOUGHTS] = [Asked("", toolbox, problem) for problem in mixed(left, split, count)]
        own = [f"corpus/{domain}" for domain in ("tools", "thoughts")]
        tasks = [task for task in ordinary(corpus, split, count, without=own).tasks if task.answer and not task.choices]
        groups[ORDINARY] = [
            Asked("", toolbox, OrdinaryProblem(task.prompt, task.answer, task.kind, task.level or 1)) for task in tasks
        ]
        named = [[replace(each, ability=name) for each in group] for name, group in groups.items()]
        turns = [each for row in zip_longest(*named) for each in row if each is not None]
        return turns[:count]

    return questions


def _thinks(source: Source, split: Split) -> bool:
    """Whether the questions of a family are worked thoughts."""
    return any(problem.calls is None for problem in draw(source, split, 1))


def _problem(exchange: Exchange) -> Problem:
    """As `agent_forge.phases.edge.design_questions.sources` names it."""
    steps = len(exchange.steps)
    kind = ("no tool", exchange.tool)[steps] if steps < 2 else "several calls"
    level = exchange.level if steps else max(2, exchange.level)
    return Problem(exchange.ask, exchange.core, kind, level, calls=steps > 0)


class Losses:
    """Asks designs what the search did not.

    Args:
        bench: the agent.
        habit: what it does without a design.
        draw: the questions of a split.
        points: share of right answers that a design may lose, at the upper end of the 95% interval.
    """

    def __init__(self, bench: Bench, habit: AgentDesign, draw: Draw, points: float) -> None:
        self.bench, self.habit, self.limits = bench, habit, Limits(points=points)
        self._draw = draw
        self._asked: dict[Split, Sequence[Asked]] = {}
        self._benches: dict[int, Bench] = {}
        self._habits: dict[Split, list[bool]] = {}

    def refused(self, design: AgentDesign) -> str:
        """Why a design may not be chosen; "" where it may. Questions of the selection split."""
        if design == self.habit:
            return ""
        before = self._before("selection")
        if not before:
            return "there are no questions outside of the search to ask it"
        if reason := too_few({_TOGETHER: before}, self.limits):
            return reason
        asked, after = self._asked["selection"], list[bool]()
        for start in range(0, len(asked), _STEP):
            after += self._right(design, asked[start : start + _STEP])
            if sum(before[: len(after)]) - sum(after) > self.limits.points * len(before):
                return (
                    f"of the first {len(after)} questions outside of the search {sum(after)} were right, "
                    f"{sum(before[: len(after)])} without it"
                )
        if reason := too_much({_TOGETHER: before}, {_TOGETHER: after}, self.limits):
            return reason
        for ability, lost in self._by_ability("selection", before, after).items():
            if lost > 100 * self.limits.points:
                return f"{ability}: {lost:.1f} points lost, {100 * self.limits.points:g} are allowed"
        return ""

    def figures(self, design: AgentDesign) -> dict[str, float]:
        """On the test split ``points_lost`` (0–100), ``sure_points_lost`` (the lower end of its one-sided 95% interval)
        and ``points_lost/ABILITY``; the habit loses nothing.
        """
        if design == self.habit:
            return {"points_lost": 0.0, "sure_points_lost": 0.0}
        before = self._before("test")
        after = self._right(design, self._asked["test"])
        parts = self._by_ability("test", before, after)
        whole = 100 * (sum(before) - sum(after)) / len(before) if before else 0.0
        sure = max(0.0, 100 * surely_lost(before, after)) if before else 0.0
        return {"points_lost": whole, "sure_points_lost": sure} | {
            f"points_lost/{name}": lost for name, lost in parts.items()
        }

    def _before(self, split: Split) -> list[bool]:
        """The habit's answers, asked once."""
        if split not in self._habits:
            self._asked[split] = self._draw(split)
            self._habits[split] = self._right(self.habit, self._asked[split])
        return self._habits[split]

    def _right(self, design: AgentDesign, asked: Sequence[Asked]) -> list[bool]:
        """Question by question; attempts are remembered for each set of tools."""
        right = [False] * len(asked)
        for box in {id(each.toolbox): each.toolbox for each in asked}.values():
            places = [n for n, each in enumerate(asked) if each.toolbox is box]
            if id(box) not in self._benches:
                mine = box is self.bench.toolbox
                self._benches[id(box)] = self.bench if mine else replace(self.bench, toolbox=box, memo={})
            trial = self._benches[id(box)].measure(design, [asked[n].problem for n in places], ahead=1)
            for place, ok in zip(places, trial.right, strict=True):
                right[place] = ok
        return right

    def _by_ability(self, split: Split, before: Sequence[bool], after: Sequence[bool]) -> dict[str, float]:
        """Points lost of each."""
        asked = self._asked[split]
        found: dict[str, float] = {}
        for ability in dict.fromkeys(each.ability for each in asked):
            places = [n for n, each in enumerate(asked) if each.ability == ability]
            lost = sum(int(before[n]) - int(after[n]) for n in places)
            found[ability] = 100 * lost / len(places)
        return found
