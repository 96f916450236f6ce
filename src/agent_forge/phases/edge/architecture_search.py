"""The search for a design of the agent: NSGA-II over a closed language, against random search and designs by hand.

Papers: Hu, Lu and Clune 2024, "Automated Design of Agentic Systems" (arXiv:2408.08435); Deb et al. 2002, "A fast and
elitist multiobjective genetic algorithm: NSGA-II" (IEEE Transactions on Evolutionary Computation 6(2)), by `pymoo`
(Blank and Deb 2020, arXiv:2002.04504).

What we do differently from the first:
1. Genotypes are rows of values (`agent_forge.phases.edge.design_space`); no model writes code and none is executed.
2. Parents are chosen by evolution, not by a model that is shown all designs before.
3. Head-room first: unless the best design by hand is right in 20–80% of the cases, nothing is searched.
4. Objectives: error, decoded tokens, and size where designs differ in it. Blank answers and failed evaluations are
   counted, and failed ones are charged.
5. The control: random search with equally many evaluations, that may take the designs by hand, too. Both choose among
   their finalists on further questions of the selection split, and are compared on the test split.
6. The first population holds the designs by hand and mutants of the good ones among them: of random designs nine in ten
   are useless (a thought forced on every question, no tools, thoughts of eight tokens).
7. A design far behind the best by hand on the first questions is not asked the others (screened).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from agent_forge.agent.design import AgentDesign
from agent_forge.contract import canonical_json, digest_of
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.phases.edge.design_questions import HEAD_ROOM, Problem
from agent_forge.phases.edge.design_space import DesignSpace, hand_written
from agent_forge.phases.edge.design_trial import Bench, Trial
from agent_forge.phases.edge.nsga2 import generations, non_dominated

Save: TypeAlias = Callable[[Mapping[str, Any], int], None]
"""Told the state after an evaluation, and how many there were: for `Context.checkpoint`. It may raise to stop."""
_SCREEN_MARGIN = 0.15
_USELESS = (1e4, 1e12)
"""Tokens and bytes of a design that is of no use; finite, because the distances of a crowd are differences."""
_START_MUTATIONS = 3.0
_STALLED = 50
"""Generations without a design that is new before the search gives up."""


@dataclass
class Searched:
    """What the search found.

    Attributes:
        design: the chosen one.
        front: designs that no other beats in every objective, on the questions that ranked them.
        measured: figures by name.
        page: JSON for the report.
        trials: on the test split: ``searched``, ``hand_written`` and, with a control, ``random``.
    """

    design: AgentDesign
    front: list[dict[str, Any]]
    measured: dict[str, float]
    page: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)


@dataclass(frozen=True)
class Questions:
    """What is asked: to rank, to choose among finalists (both of the selection split), and for the verdict (test)."""

    ranking: Sequence[Problem]
    further: Sequence[Problem]
    test: Sequence[Problem]


def search_design(
    bench: Bench,
    questions: Questions,
    space: DesignSpace,
    *,
    evaluations: int,
    population: int = 16,
    finalists: int = 4,
    screen: int = 24,
    control: bool = True,
    all_hand_written: bool = True,
    max_mean_tokens: float | None = None,
    seed: int = 0,
    restored: Mapping[str, Any] | None = None,
    save: Save | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Searched:
    """Searches a design for an agent.

    Args:
        bench: the agent.
        questions: what it is asked.
        space: of the designs.
        evaluations: different designs that are tried, those by hand included; the control tries as many.
        population: of NSGA-II.
        finalists: best designs by accuracy that are compared on further questions.
        screen: questions after which a design that is far behind is given up.
        control: whether random search is run beside it.
        all_hand_written: whether the verdict is against the best by hand on the test split itself; else against the
            best on the selection split. The agent's habit (one attempt, as it comes) is always among them.
        max_mean_tokens: bound on the decoded tokens of a question for the chosen design; None = none.
        seed: of the search.
        restored: the state that ``save`` was given last.
        save: called after each new evaluation.
        progress: told done, total and a note.

    Returns:
        The chosen design, the front, figures (accuracies on the test split, differences with 95% intervals, cost,
        counts) and a page. ``measured["searched"]`` is 0 where there was no head-room: then the design is the best by
        hand, and the page says why.

    Raises:
        ValueError: there are no questions, or fewer evaluations than designs by hand.
    """
    if not (questions.ranking and questions.test):
        raise ValueError("a search needs questions of the selection and of the test split")
    search = _Search(bench, questions, space, screen, restored, save, progress)
    if evaluations < len(search.by_hand):
        raise ValueError(f"{evaluations} evaluations are fewer than the {len(search.by_hand)} designs by hand")
    best = search.begin()
    share = search.known(best).accuracy
    if not HEAD_ROOM[0] <= share <= HEAD_ROOM[1]:
        reason = f"the best design by hand ({search.name(best)}) is right in {share:.0%} of the cases: no head-room"
        return search.skipped(best, share, reason)
    search.total = evaluations * (1 + control)
    evolved = search.evolve(evaluations, population, seed)
    drawn = search.draw(evaluations, seed) if control else []
    chosen = search.choose(evolved, finalists, max_mean_tokens)
    other = search.choose(drawn, finalists, max_mean_tokens) if control else None
    return search.verdict(chosen, other, evolved, drawn, all_hand_written, seed)


class _Search:
    """What evolution and control share: trials by design, kept for resume."""

    def __init__(
        self,
        bench: Bench,
        questions: Questions,
        space: DesignSpace,
        screen: int,
        restored: Mapping[str, Any] | None,
        save: Save | None,
        progress: Callable[[int, int, str], None] | None,
    ) -> None:
        self.bench, self.questions, self.space = bench, questions, space
        self.screen = min(screen, len(questions.ranking))
        self._save, self._progress = save, progress
        self.by_hand = hand_written(space)
        self.bound, self.total = 0.0, len(self.by_hand)
        rows = {} if restored is None else json.loads(restored["trials"])
        self.trials = {digest: Trial.from_json(row) for digest, row in rows.items()}

    def begin(self) -> AgentDesign:
        """Measures the designs by hand, all questions each; gives the best."""
        for design in self.by_hand.values():
            self.try_(design)
        best = min(self.by_hand.values(), key=self._rank)
        self.bound = float(np.mean(self.known(best).right[: self.screen])) - _SCREEN_MARGIN
        return best

    def try_(self, design: AgentDesign) -> Trial:
        """Its trial on the ranking questions, made once."""
        digest = digest_of(design.to_json())
        if digest not in self.trials:
            self.trials[digest] = self.bench.screened(design, self.questions.ranking, self.screen, self.bound)
            count = len(self.trials)
            if self._progress is not None:
                self._progress(count, max(count, self.total), f"design {count}")
            if self._save is not None:
                rows = {name: trial.to_json() for name, trial in self.trials.items()}
                self._save({"trials": canonical_json(rows)}, count)
        return self.trials[digest]

    def known(self, design: AgentDesign) -> Trial:
        """The trial of a design that was tried."""
        return self.trials[digest_of(design.to_json())]

    def name(self, design: AgentDesign) -> str:
        """Of a design by hand, else ``searched``."""
        return next((name for name, each in self.by_hand.items() if each == design), "searched")

    def evolve(self, evaluations: int, population: int, seed: int) -> list[AgentDesign]:
        """NSGA-II; every design that it tried, in order."""
        tried = dict.fromkeys(self.by_hand.values())

        def objectives(genotype: np.ndarray) -> tuple[float, ...]:
            design = self.space.design(genotype)
            if design not in tried and len(tried) >= evaluations:
                return (2.0, *_USELESS)  # the last generation may have more children than are left
            tried.setdefault(design)
            return self._objectives(self.try_(design))

        starts = self._starts(population, seed)
        stalled = before = 0
        for _ in generations(self.space.sizes, starts, objectives, population=len(starts), seed=seed):
            stalled, before = (0 if len(tried) > before else stalled + 1), len(tried)
            if len(tried) >= evaluations or stalled >= _STALLED:
                break
        return list(tried)

    def _starts(self, population: int, seed: int) -> list[np.ndarray]:
        """The designs by hand, and mutants of those that are not far behind the best."""
        starts = [self.space.genotype(design) for design in self.by_hand.values()]
        parents = [self.space.genotype(d) for d in self.by_hand.values() if self.known(d).accuracy >= self.bound]
        generator = np.random.default_rng([seed, 2])
        while len(starts) < population:
            parent = parents[generator.integers(len(parents))]
            changed = generator.random(len(parent)) < _START_MUTATIONS / len(parent)
            starts.append(np.where(changed, self.space.random(generator), parent))
        return starts

    def draw(self, evaluations: int, seed: int) -> list[AgentDesign]:
        """Random search; every design that it tried, those by hand first."""
        tried = dict.fromkeys(self.by_hand.values())
        generator = np.random.default_rng([seed, 1])
        for _ in range(_STALLED * evaluations):
            if len(tried) >= evaluations:
                break
            tried.setdefault(self.space.design(self.space.random(generator)))
        for design in tried:
            self.try_(design)
        return list(tried)

    def choose(self, tried: Sequence[AgentDesign], finalists: int, most: float | None) -> AgentDesign:
        """The best of the finalists, on ranking and further questions together; among equals the cheaper one."""
        within = [d for d in tried if most is None or (not self.known(d).failed and self.known(d).mean_tokens <= most)]
        best = sorted(within or tried, key=self._rank)[:finalists]
        if not self.questions.further:
            return best[0]
        more = {design: self.bench.measure(design, self.questions.further) for design in best}
        right = {design: sum(self.known(design).right) + sum(more[design].right) for design in best}
        return min(best, key=lambda design: (-right[design], self._rank(design)))

    def verdict(
        self,
        chosen: AgentDesign,
        control: AgentDesign | None,
        evolved: Sequence[AgentDesign],
        drawn: Sequence[AgentDesign],
        all_hand_written: bool,
        seed: int,
    ) -> Searched:
        """Everything on the test split, and what was counted on the way."""
        test = self.questions.test
        habit, *others = self.by_hand.values()
        compared = [habit, *(others if all_hand_written else [min(self.by_hand.values(), key=self._rank)])]
        trials = {design: self.bench.measure(design, test) for design in [chosen, *compared]}
        best = min(compared, key=lambda design: (-trials[design].accuracy, trials[design].mean_tokens))
        figures = {
            "searched": 1.0,
            "head_room_accuracy": max(self.known(design).accuracy for design in self.by_hand.values()),
            "test_accuracy": trials[chosen].accuracy,
            "test_tokens": trials[chosen].mean_tokens,
            "test_blank_fraction": trials[chosen].blank / len(test),
            "hand_written_test_accuracy": trials[best].accuracy,
            "hand_written_test_tokens": trials[best].mean_tokens,
            "evaluations": float(len(evolved)),
            "control_evaluations": float(len(drawn)),
            "failed_evaluations": float(sum(bool(trial.failed) for trial in self.trials.values())),
            "screened_evaluations": float(sum(trial.screened for trial in self.trials.values())),
        }
        figures |= _difference("hand_written", trials[chosen], trials[best], seed)
        figures |= {"habit_test_accuracy": trials[habit].accuracy, "habit_test_tokens": trials[habit].mean_tokens}
        figures |= _difference("habit", trials[chosen], trials[habit], seed)
        judged = {"searched": trials[chosen], "hand_written": trials[best]}
        page: dict[str, Any] = {"chosen": self.name(chosen), "best_by_hand": self.name(best)}
        if control is not None:
            other = trials.get(control) or self.bench.measure(control, test)
            figures |= {"random_test_accuracy": other.accuracy, "random_test_tokens": other.mean_tokens}
            figures |= _difference("random", trials[chosen], other, seed)
            page["random"] = control.to_json()
            judged["random"] = other
        rows = {
            self.name(design): {"test_accuracy": t.accuracy, "tokens": t.mean_tokens} for design, t in trials.items()
        }
        front = self.front([*evolved, *drawn])
        page |= {
            "design": chosen.to_json(),
            "test": rows,
            "front": front,
            "by_kind": self._by_kind(trials, chosen, best),
        }
        return Searched(chosen, front, figures, page, judged)

    def skipped(self, best: AgentDesign, share: float, reason: str) -> Searched:
        """No search: the best design by hand, and why."""
        figures = {"searched": 0.0, "head_room_accuracy": share, "evaluations": float(len(self.by_hand))}
        front = self.front(list(self.by_hand.values()))
        page = {"skipped": reason, "chosen": self.name(best), "design": best.to_json(), "front": front}
        return Searched(best, front, figures, page)

    def front(self, designs: Sequence[AgentDesign]) -> list[dict[str, Any]]:
        """Those that none beats on the ranking questions, the most accurate first."""
        whole = [d for d in dict.fromkeys(designs) if not (self.known(d).failed or self.known(d).screened)]
        kept = [whole[n] for n in non_dominated(np.array([self._objectives(self.known(d)) for d in whole]))]
        return [
            {
                "name": self.name(design),
                "accuracy": self.known(design).accuracy,
                "tokens": self.known(design).mean_tokens,
                "size_bytes": self.known(design).size_bytes,
                "blank": self.known(design).blank,
                "design": design.to_json(),
            }
            for design in sorted(kept, key=self._rank)
        ]

    def _by_kind(
        self, trials: Mapping[AgentDesign, Trial], chosen: AgentDesign, best: AgentDesign
    ) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for family in sorted({problem.family for problem in self.questions.test}):
            places = [n for n, problem in enumerate(self.questions.test) if problem.family == family]
            found[family] = {
                "questions": len(places),
                "searched": float(np.mean([trials[chosen].right[n] for n in places])),
                "best_by_hand": float(np.mean([trials[best].right[n] for n in places])),
            }
        return found

    def _rank(self, design: AgentDesign) -> tuple[float, float]:
        trial = self.known(design)
        return (1.0 + trial.screened + 2 * bool(trial.failed) - trial.accuracy, trial.mean_tokens)

    def _objectives(self, trial: Trial) -> tuple[float, float, float]:
        """What is to be small; a design far behind is of no use however cheap, so that none is kept for its price."""
        if trial.failed or trial.screened or trial.accuracy < self.bound:
            return (2.0 - trial.accuracy, *_USELESS)
        return (1.0 - trial.accuracy, trial.mean_tokens, trial.size_bytes)


def _difference(name: str, first: Trial, second: Trial, seed: int) -> dict[str, float]:
    """First minus second in accuracy, with a 95% interval of a paired bootstrap over the questions."""
    found = paired_bootstrap(np.array(first.right, float), np.array(second.right, float), seed=seed)
    return {f"over_{name}": found.difference, f"over_{name}_low": found.low, f"over_{name}_high": found.high}
