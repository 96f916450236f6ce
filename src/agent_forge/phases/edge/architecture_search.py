"""The search for a design of the agent: NSGA-II over a closed language, against random search and designs by hand.

Papers: Hu, Lu and Clune 2024, "Automated Design of Agentic Systems" (arXiv:2408.08435); Deb et al. 2002, "A fast and
elitist multiobjective genetic algorithm: NSGA-II" (IEEE Transactions on Evolutionary Computation 6(2)), by `pymoo`
(Blank and Deb 2020, arXiv:2002.04504).

What we do differently from the first:
1. Genotypes are rows of values (`agent_forge.phases.edge.design_space`), one for each kind of question that the agent
   can tell apart; no model writes code and none is executed.
2. Parents are chosen by evolution, not by a model that is shown all designs before.
3. Head-room first: unless the best design by hand is right in 20–80% of the cases, nothing is searched.
4. Objectives: error, decoded tokens, and size where designs differ in it. Blank answers and failed evaluations are
   counted, and failed ones are charged.
5. The first population holds the designs by hand and mutants of the good ones among them: of random designs nine in ten
   are useless (a thought forced on every question, no tools, thoughts of eight tokens).
6. What a row did for its kind is remembered (`agent_forge.phases.edge.design_rows`): each generation is given the
   design made of the best row of each kind, and the chosen one has a row of its own where that answers more.
7. A design far behind the best by hand on the first questions is not asked the others (screened).
8. The chosen design must not cost what was not asked: the caller may refuse it, then the next finalist is taken, and
   in the end the habit.
9. Controls with equally many evaluations, that may take the designs by hand, too: random search, with and without the
   choice by kind; and designs by hand put together at random, kind by kind. All choose among finalists on further
   questions of the selection split, and are compared on the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from agent_forge.agent.design import AgentDesign
from agent_forge.evaluation.statistics import clearly_lower
from agent_forge.phases.edge.design_ledger import USELESS, Ledger, Questions, Save
from agent_forge.phases.edge.design_questions import HEAD_ROOM
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.phases.edge.design_verdict import BY_KIND, Control, Drawn, Searched, skipped, verdict
from agent_forge.phases.edge.nsga2 import generations

_START_MUTATIONS = 3.0
_STALLED = 50
"""Generations without a design that is new before the search gives up."""


def search_design(
    bench: Bench,
    questions: Questions,
    space: DesignSpace,
    *,
    evaluations: int,
    population: int = 16,
    finalists: int = 4,
    screen: int = 24,
    controls: Sequence[Control] = ("random",),
    all_hand_written: bool = True,
    max_mean_tokens: float | None = None,
    refused: Callable[[AgentDesign], str] | None = None,
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
        evaluations: different designs that are measured, those by hand and the finalists included, on every side.
        population: of NSGA-II.
        finalists: best designs by accuracy that are compared on further questions.
        screen: questions after which a design that is far behind is given up.
        controls: what is run beside it: ``random`` search; ``random_by_kind``, the same with the choice that the search
            ends with; ``recombined``, designs by hand put together at random, kind by kind; ``composed``, that choice
            with no more than the designs by hand to choose from.
        all_hand_written: whether the verdict is against the best by hand on the test split itself; else against the
            best on the selection split. The agent's habit (one attempt, as it comes) is always among them.
        max_mean_tokens: bound on the decoded tokens of a question for the chosen design; None = none.
        refused: why a design may not be chosen, "" if it may; asked of finalists, the best first, of every side alike.
        seed: of the search.
        restored: the state that ``save`` was given last.
        save: called after each new evaluation.
        progress: told done, total and a note.

    Returns:
        The chosen design, the front, figures (accuracies on the test split, differences with 95% intervals, cost,
        counts) and a page. ``measured["searched"]`` is 0 where there was no head-room: then the design is the habit,
        and the page says why.

    Raises:
        ValueError: there are no questions, or fewer evaluations than designs by hand.
    """
    if not (questions.ranking and questions.test):
        raise ValueError("a search needs questions of the selection and of the test split")
    ledger = Ledger(bench, questions, space, screen, restored, save, progress)
    search = _Search(ledger, evaluations, finalists, max_mean_tokens, refused, seed)
    if evaluations < (least := len(ledger.by_hand) + (2 if space.kinds else 0)):
        raise ValueError(f"{evaluations} evaluations are fewer than the {least} of designs by hand and the choice")
    share = ledger.known(best := ledger.begin()).accuracy
    if not HEAD_ROOM[0] <= share <= HEAD_ROOM[1]:
        reason = f"the best design by hand ({ledger.name(best)}) is right in {share:.0%} of the cases: no head-room"
        return skipped(ledger, share, reason)
    return search.run(controls, population, all_hand_written)


class _Search:
    """Evolution, controls and the choice among what they tried."""

    def __init__(
        self,
        ledger: Ledger,
        evaluations: int,
        finalists: int,
        most: float | None,
        refused: Callable[[AgentDesign], str] | None,
        seed: int,
    ) -> None:
        self.ledger, self.space, self.by_hand = ledger, ledger.space, ledger.by_hand
        self.evaluations, self.finalists, self.most, self.seed = evaluations, finalists, most, seed
        self.refused, self.reasons = refused, dict[AgentDesign, str]()
        if self.space.kinds:  # the finalists of a choice by kind are designs of their own, and so is what is chosen
            self.finalists = max(1, min(finalists, (evaluations - len(self.by_hand)) // 3))

    def run(self, controls: Sequence[Control], population: int, all_hand_written: bool) -> Searched:
        """Evolution, its choice, the controls with theirs, and the verdict on all of them."""
        self.ledger.total = self.evaluations * (1 + sum(name != "composed" for name in controls))
        evolved = self.evolve(population)
        chosen = self.final(evolved, by_kind=True)
        others: dict[Control, Drawn] = {}
        for name in controls:
            drawn = self.draw(name)
            others[name] = self.final(drawn, by_kind=name in BY_KIND), drawn
        found = verdict(self.ledger, chosen, evolved, others, all_hand_written, self.seed)
        found.page["refused"] = [
            {"name": self.ledger.name(design), "design": design.to_json(), "reason": reason}
            for design, reason in self.reasons.items()
            if reason
        ]
        return found

    def final(self, tried: list[AgentDesign], *, by_kind: bool) -> AgentDesign:
        """The best finalist that is clearly better than the habit and not refused, else the habit."""
        for design in self.choose_by_kind(tried) if by_kind and self.space.kinds else self.choose(tried):
            if design not in self.reasons:
                self.reasons[design] = self._not_better(design) or (self.refused(design) if self.refused else "")
            if not self.reasons[design]:
                return design
        return self.by_hand["habit"]

    def _not_better(self, design: AgentDesign) -> str:
        """Why a design may not replace the habit: its gain on the questions so far is within one standard error."""
        habit, questions = self.by_hand["habit"], self.ledger.questions
        if design == habit:
            return ""
        asked = [*questions.ranking, *questions.further]
        own, usual = (np.asarray(self.ledger.bench.measure(each, asked).right) for each in (design, habit))
        if clearly_lower(usual, own):
            return ""
        return f"{own.sum()} of {len(own)} right, {usual.sum()} with one greedy attempt: within luck"

    def evolve(self, population: int) -> list[AgentDesign]:
        """NSGA-II; every design that it tried, in order."""
        evaluations = self.evaluations - (self.finalists + 1 if self.space.kinds else 0)
        tried = dict.fromkeys(self.by_hand.values())

        def objectives(genotype: np.ndarray) -> tuple[float, ...]:
            design = self.space.design(genotype)
            if design not in tried and len(tried) >= evaluations:
                return (2.0, *USELESS)  # the last generation may have more children than are left
            tried.setdefault(design)
            return self.ledger.objectives(self.ledger.try_(design))

        starts = self._starts(population)
        stalled = before = 0
        for _ in generations(
            self.space.sizes, starts, objectives, population=len(starts), seed=self.seed, blocks=self.space.blocks,
            offspring=max(2, len(starts) // 2), was_tried=self.ledger.rows.was_tried,
            given=lambda: self.space.genotype(self.ledger.rows.composed()) if self.space.kinds else None,
        ):  # fmt: skip
            stalled, before = (0 if len(tried) > before else stalled + 1), len(tried)
            if len(tried) >= evaluations or stalled >= _STALLED:
                break
        return list(tried)

    def _starts(self, population: int) -> list[np.ndarray]:
        """The designs by hand; with routes the best row of each kind put together; and mutants: of that one, or of the
        designs by hand that are not far behind the best."""
        starts = [self.space.genotype(design) for design in self.by_hand.values()]
        parents = [
            self.space.genotype(d) for d in self.by_hand.values() if self.ledger.known(d).accuracy >= self.ledger.bound
        ]
        if self.space.kinds:
            parents = [self.space.genotype(self.ledger.rows.composed())]
            starts += parents
        generator = np.random.default_rng([self.seed, 2])
        width = len(self.space.genes)
        while len(starts) < population:
            parent = parents[generator.integers(len(parents))]
            changed = generator.random(len(parent)) < _START_MUTATIONS / width
            starts.append(np.where(changed, self.space.random(generator), parent))
        return starts

    def draw(self, how: Control) -> list[AgentDesign]:
        """A control; every design that it tried, those by hand first."""
        tried = dict.fromkeys(self.by_hand.values())
        generator = np.random.default_rng([self.seed, 1])
        evaluations = self.evaluations - (self.finalists + 1 if self.space.kinds and how in BY_KIND else 0)
        for _ in range(0 if how == "composed" else _STALLED * self.evaluations):
            if len(tried) >= evaluations:
                break
            tried.setdefault(self._drawn(how, generator))
        for design in tried:
            self.ledger.try_(design)
        return list(tried)

    def _drawn(self, how: Control, generator: np.random.Generator) -> AgentDesign:
        """Any design of the space, or for each kind the row of any design by hand."""
        if how != "recombined":
            return self.space.design(self.space.random(generator))
        parents = [self.space.genotype(design) for design in self.by_hand.values()]
        blocks = np.split(np.stack(parents), self.space.blocks, axis=1)
        return self.space.design(np.concatenate([block[generator.integers(len(parents))] for block in blocks]))

    def choose(self, tried: Sequence[AgentDesign]) -> Sequence[AgentDesign]:
        """The finalists, best first on ranking and further questions together; among equals the cheaper one."""
        known, further, most = self.ledger.known, self.ledger.questions.further, self.most
        within = [d for d in tried if most is None or (not known(d).failed and known(d).mean_tokens <= most)]
        best = sorted(within or tried, key=self.ledger.rank)[: self.finalists]
        if not further:
            return best
        more = {design: self.ledger.bench.measure(design, further) for design in best}
        right = {design: sum(known(design).right) + sum(more[design].right) for design in best}
        return sorted(best, key=lambda design: (-right[design], self.ledger.rank(design)))

    def choose_by_kind(self, tried: list[AgentDesign]) -> Iterator[AgentDesign]:
        """Each row by itself, against the best design that is alike for all kinds, on the same questions as `choose`;
        then, for who wants another, the finalists of `choose`.

        What is measured on the way is added to ``tried``.
        """
        further = self.ledger.questions.further
        rows, later = self.ledger.rows_of(self.ledger.questions.ranking), self.ledger.rows_of(further)
        for design in tried:
            rows.add(design, self.ledger.known(design))
        default = self.choose([design for design in tried if not design.routes])[0]
        candidates = list(dict.fromkeys(rows.composed(place) for place in range(self.finalists)))
        found = {d: self.ledger.bench.measure(d, further) for d in (default, *candidates)} if further else {}
        chosen = rows.settled(default, candidates, later, found)
        fresh = [design for design in dict.fromkeys((*candidates, chosen)) if design not in tried]
        tried += fresh
        for design in fresh:
            self.ledger.try_(design)
        within = self.ledger.known(chosen)
        if self.most is None or not (within.failed or within.mean_tokens > self.most):
            yield chosen
        yield from self.choose(tried)
