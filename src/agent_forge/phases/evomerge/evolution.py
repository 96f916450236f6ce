"""Evolution of genotypes: elites and their mutants, merged losers, immigrants; on any fitness.

Generation 0 holds the eight binary combinations {linear | SLERP} × {DARE | TIES} × {Frankenmerge | DFS}.
Each next one: the two best found so far are mutated three times each, the rest of the generation forms
groups of three, each recombined under a drawn combination. Source of merging as evolution: Akiba et al.
2024, arXiv:2403.13187; the scheme is the specification's.

What differs:
1. The elites stay parents as long as nobody beats them, so the best is never lost. Anchors (the parents, the trunk,
   their mean) compete as elites from the start: the champion is never worse than the best of them.
2. The three mutants of an elite take a quarter, one and twice the mutation rate: refinement and exploration.
3. Diversity (mean pairwise distance) below the limit: immigrants replace mutants, the widest first, before
   anything is evaluated, and the mutation rate goes up until diversity is back.
4. Fitness is cached by digest, and everything drawn depends on (seed, generation) alone. A killed run is
   resumed by replay: the same steps again, answered from the cache. There is no other state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agent_forge.phases.evomerge.genotype import (
    COMBINATIONS,
    Genotype,
    Space,
    diversity,
    founder,
    mutate,
    random_genotype,
    recombine,
)

if TYPE_CHECKING:
    import torch

MUTANTS = 3
STEPS = (0.25, 1.0, 2.0)  # of the mutation rate, for the three mutants of an elite
WORST = float("-inf")


@dataclass(frozen=True)
class Individual:
    """A genotype with its fitness and where it comes from.

    Attributes:
        genotype: the recipe.
        fitness: higher is better; minus infinity for a model that gives no finite loss.
        generation: when it was first evaluated.
        origin: ``anchor``, ``founder``, ``mutant``, ``recombined`` or ``immigrant``.
        parents: digests of the genotypes that it comes from.
    """

    genotype: Genotype
    fitness: float
    generation: int
    origin: str
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """What one generation looked like.

    Attributes:
        number: 0 is the founders'.
        members: evaluated, best first.
        best: the best individual found so far, anchors included.
        diversity: mean pairwise distance of the members.
        mutation_rate: with which they were made.
        immigrants: how many of them came from outside.
        evaluations: fitness calls so far that were not answered by the cache.
        converged: no gain for ``patience`` generations.
    """

    number: int
    members: tuple[Individual, ...]
    best: Individual
    diversity: float
    mutation_rate: float
    immigrants: int
    evaluations: int
    converged: bool


@dataclass
class Evolution:
    """The search. Iterate over `run` to get one `Generation` after another.

    Attributes:
        space: what genotypes may say.
        fitness: genotype → fitness, higher is better; called once per digest.
        seed: of everything drawn.
        population: individuals per generation, from 4 on; elites are a quarter of it (2 of 8).
        generations: at most so many after generation 0.
        patience: generations without gain after which it is declared converged.
        minimum_gain: smaller gains count as none.
        minimum_diversity: immigrants come in below it.
        mutation_rate: 1 moves a third of the genes by about 0.15 of their range.
        anchors: compete as elites, are not members of generation 0.
        cache: digest → fitness; what a checkpoint has to keep.
        population_of: generation → smaller population from there on (memory watch); part of a checkpoint.
    """

    space: Space
    fitness: Callable[[Genotype], float]
    seed: int = 0
    population: int = 8
    generations: int = 50
    patience: int = 10
    minimum_gain: float = 1e-4
    minimum_diversity: float = 0.3
    mutation_rate: float = 1.0
    anchors: Sequence[Genotype] = ()
    cache: dict[str, float] = field(default_factory=dict)
    population_of: dict[int, int] = field(default_factory=dict)
    evaluations: int = 0

    def run(self) -> Iterator[Generation]:
        """Generation 0, 1, 2 … until the last one or convergence."""
        elites = self._best([self._evaluated(genotype, 0, "anchor") for genotype in self.anchors], [])
        members = tuple(
            self._evaluated(founder(COMBINATIONS[i % 8], self.space, self._generator(0, f"founder-{i}")), 0, "founder")
            for i in range(max(self.population, len(COMBINATIONS)))
        )
        rate, made_with, stale, number, immigrants = self.mutation_rate, self.mutation_rate, 0, 0, 0
        best = self._best(members, elites)[0]
        while True:
            elites = self._best(members, elites)
            gained = elites[0].fitness > best.fitness + self.minimum_gain or number == 0
            stale = 0 if gained else stale + 1
            best = elites[0] if gained else best
            spread = diversity([member.genotype for member in members], self.space)
            converged = stale >= self.patience
            ranked = tuple(sorted(members, key=_rank))
            yield Generation(number, ranked, elites[0], spread, made_with, immigrants, self.evaluations, converged)
            if converged or number >= self.generations:
                return
            number += 1
            children, immigrants = self._children(number, elites, ranked, rate)
            made_with = rate
            rate = min(rate * 1.25, 3 * self.mutation_rate) if immigrants else max(rate / 1.25, self.mutation_rate)
            members = tuple(self._evaluated(child, number, origin, parents) for child, origin, parents in children)

    def shrink(self, generation: int, population: int) -> None:
        """From that generation on, so many individuals (the last rung of the memory watch)."""
        self.population_of[generation] = max(4, population)

    def _children(
        self, number: int, elites: Sequence[Individual], ranked: Sequence[Individual], rate: float
    ) -> tuple[list[tuple[Genotype, str, tuple[str, ...]]], int]:
        """The next generation before it is evaluated, and how many immigrants are in it."""
        population = min((p for g, p in self.population_of.items() if g <= number), default=self.population)
        parents = list(elites[: max(1, population // 4)])
        made: list[tuple[Genotype, str, tuple[str, ...]]] = []
        for which in range(MUTANTS):
            for place, elite in enumerate(parents):
                g = self._generator(number, f"mutant-{place}-{which}")
                child = mutate(elite.genotype, self.space, g, rate * STEPS[which])
                made.append((child, "mutant", (elite.genotype.digest,)))
        losers = list(ranked[len(parents) :])
        g = self._generator(number, "recombine")
        order: list[int] = []
        while len(made) < population:
            if len(order) < 3:  # groups do not overlap while there are losers left
                order = _permutation(len(losers), g)
            group = [losers[order.pop()].genotype for _ in range(min(3, len(losers)))]
            combination = COMBINATIONS[_permutation(len(COMBINATIONS), g)[0]]
            child = recombine(group, combination, self.space, g)
            made.append((child, "recombined", tuple(genotype.digest for genotype in group)))
        return self._with_immigrants(number, made, len(parents) * MUTANTS)

    def _with_immigrants(
        self, number: int, made: list[tuple[Genotype, str, tuple[str, ...]]], mutants: int
    ) -> tuple[list[tuple[Genotype, str, tuple[str, ...]]], int]:
        """Replaces mutants, those of the widest step first, until the generation is diverse enough; at most half."""
        immigrants = 0
        while (
            immigrants < len(made) // 2
            and diversity([genotype for genotype, _, _ in made], self.space) < self.minimum_diversity
        ):
            g = self._generator(number, f"immigrant-{immigrants}")
            made[mutants - 1 - immigrants] = (random_genotype(self.space, g), "immigrant", ())
            immigrants += 1
        return made, immigrants

    def _best(self, members: Sequence[Individual], elites: Sequence[Individual]) -> list[Individual]:
        """The best individuals found so far, each recipe once; as many as there can be elites."""
        found: dict[str, Individual] = {}
        for individual in sorted((*elites, *members), key=_rank):
            found.setdefault(individual.genotype.digest, individual)
        return list(found.values())[: max(2, self.population // 4)]

    def _evaluated(self, genotype: Genotype, generation: int, origin: str, parents: tuple[str, ...] = ()) -> Individual:
        digest = genotype.digest
        if digest not in self.cache:
            value = float(self.fitness(genotype))
            self.cache[digest] = value if value == value else WORST
            self.evaluations += 1
        return Individual(genotype, self.cache[digest], generation, origin, parents)

    def _generator(self, generation: int, name: str) -> torch.Generator:
        return drawn_from(self.seed, f"{generation}:{name}")


def random_search(
    space: Space, fitness: Callable[[Genotype], float], evaluations: int, seed: int, cache: dict[str, float]
) -> Iterator[Individual]:
    """The control: as many genotypes drawn from the same space. Without beating it, generations prove nothing.

    Args:
        space: the same as evolution's.
        fitness: the same as evolution's.
        evaluations: how many.
        seed: of what is drawn.
        cache: digest → fitness, filled as it goes.

    Yields:
        One individual per draw, in order.
    """
    for number in range(evaluations):
        genotype = random_genotype(space, drawn_from(seed, f"control:{number}"))
        digest = genotype.digest
        if digest not in cache:
            cache[digest] = float(fitness(genotype))
        yield Individual(genotype, cache[digest], number, "control")


def drawn_from(seed: int, name: str) -> torch.Generator:
    """A generator that depends on (seed, name) alone."""
    import torch

    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def family_tree(history: Sequence[Generation], champion: Genotype) -> dict[str, Any]:
    """Every individual once, as JSON for the report: who came from whom, and how fit they were.

    Args:
        history: all generations.
        champion: the genotype that was chosen in the end.
    """
    nodes: dict[str, dict[str, Any]] = {}
    for generation in history:
        for member in (*generation.members, generation.best):
            genotype, digest = member.genotype, member.genotype.digest[:12]
            nodes.setdefault(
                digest,
                {
                    "id": digest,
                    "generation": member.generation,
                    "parents": [parent[:12] for parent in member.parents],
                    "label": f"{member.origin} {genotype.interpolation}+{genotype.sparsification}+{genotype.layout}",
                    "fitness": member.fitness if member.fitness != WORST else None,
                },
            )
    digest = champion.digest[:12]
    nodes.setdefault(digest, {"id": digest, "generation": 0, "parents": [], "label": "parent", "fitness": None})
    return {"champion": digest, "nodes": list(nodes.values())}


def _rank(individual: Individual) -> tuple[float, str]:
    """Best first; equal fitness by digest, so that the order never depends on memory."""
    return (-individual.fitness, individual.genotype.digest)


def _permutation(count: int, generator: torch.Generator) -> list[int]:
    import torch

    return [int(value) for value in torch.randperm(count, generator=generator)]
