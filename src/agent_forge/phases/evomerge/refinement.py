"""CMA-ES over the continuous genes of a champion: weights, strengths, densities, scales.

Source: Hansen and Ostermeier 2001; the library is ``cmaes`` (Nomura and Shibata 2024,
arXiv:2402.01373). Merging with it: Akiba et al. 2024, arXiv:2403.13187, section 3.1.

What differs:
1. It starts at the champion that evolution found and keeps its discrete genes.
2. No state of its own is stored: a killed run is replayed from the cache of fitness values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from agent_forge.errors import ConfigError
from agent_forge.phases.evomerge.evolution import WORST, Individual
from agent_forge.phases.evomerge.genotype import Genotype, Space, tidy


def refine(
    start: Genotype,
    space: Space,
    fitness: Callable[[Genotype], float],
    *,
    evaluations: int,
    seed: int,
    step: float = 0.1,
) -> Iterator[Individual]:
    """Candidates around ``start``, in the order in which they were tried.

    Args:
        start: the champion.
        space: its space.
        fitness: higher is better; remembers what it was asked before.
        evaluations: how many candidates.
        seed: of the search.
        step: first standard deviation, in units of the genes.

    Raises:
        ConfigError: the ``cmaes`` package is not installed.
    """
    try:
        import cmaes
        import numpy
    except ImportError as error:
        raise ConfigError("strategy evolution+cma needs the package cmaes: pip install agent-forge[evolve]") from error
    mean = numpy.asarray(to_vector(start))
    bounds = numpy.asarray(_bounds(start, space))
    search = cmaes.CMA(mean=numpy.clip(mean, bounds[:, 0], bounds[:, 1]), sigma=step, bounds=bounds, seed=seed)
    done = 0
    while done < evaluations:
        told = []
        for _ in range(search.population_size):
            vector = search.ask()
            genotype = tidy(from_vector(start, vector.tolist()), space)
            value = fitness(genotype)
            told.append((vector, 1e6 if value == WORST else -value))
            yield Individual(genotype, value, done, "refined", (start.digest,))
            done += 1
        search.tell(told)


def to_vector(genotype: Genotype) -> list[float]:
    """The continuous genes in a row."""
    rows = [value for row in genotype.weights for value in row]
    return [*rows, *genotype.strengths, *genotype.densities, *genotype.scales]


def from_vector(genotype: Genotype, vector: list[float]) -> Genotype:
    """The inverse of `to_vector`, with the discrete genes of ``genotype``."""
    groups, parents = len(genotype.weights), len(genotype.weights[0])
    rows, rest = vector[: groups * parents], vector[groups * parents :]
    return replace(
        genotype,
        weights=tuple(tuple(rows[i * parents : (i + 1) * parents]) for i in range(groups)),
        strengths=tuple(rest[:groups]),
        densities=tuple(rest[groups : groups + parents]),
        scales=tuple(rest[groups + parents :]),
    )


def _bounds(genotype: Genotype, space: Space) -> list[tuple[float, float]]:
    groups, parents = len(genotype.weights), len(genotype.weights[0])
    weights, strengths = [(0.0, 1.0)] * (groups * parents), [(0.0, float(space.parents))] * groups
    return [*weights, *strengths, *[(1 / 32, 1.0)] * parents, *[(0.25, 4.0)] * len(genotype.scales)]
