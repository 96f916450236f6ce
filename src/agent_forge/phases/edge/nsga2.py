"""NSGA-II over rows of choices, by `pymoo`.

Paper: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II" (IEEE Transactions on
Evolutionary Computation 6(2)), section III; `pymoo` (Blank and Deb 2020, arXiv:2002.04504).

What we do differently:
1. Genes are choices without an order: crossover takes each gene from either parent (uniform), mutation draws it anew.
2. The first population begins with given genotypes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np


def generations(
    sizes: np.ndarray,
    starts: Sequence[np.ndarray],
    objectives: Callable[[np.ndarray], Sequence[float]],
    *,
    population: int,
    seed: int,
    mutations: float = 2.0,
) -> Iterator[int]:
    """Runs for as long as it is iterated.

    Args:
        sizes: [genes] number of choices of each.
        starts: genotypes [genes] that the first population has; random ones fill it up.
        objectives: genotype → what is to be small.
        population: genotypes of a generation.
        seed: of everything.
        mutations: genes that are drawn anew in a child, on average.

    Yields:
        The number of each generation, once all of it is measured.

    Raises:
        ValueError: a population of fewer than 4, or a start that is out of range.
    """
    sizes, count = np.asarray(sizes), len(sizes)
    first = [np.asarray(start) for start in starts]
    if population < 4 or any(len(start) != count or (start >= sizes).any() for start in first):
        raise ValueError(f"a population of {population} must be at least 4, and starts need {count} genes in range")
    generator = np.random.default_rng(seed)
    first += [generator.integers(0, sizes) for _ in range(max(0, population - len(first)))]
    algorithm, problem = _algorithm(sizes, np.stack(first), objectives, population, seed, mutations / count)
    number = 0
    while True:
        children = algorithm.ask()
        if children is None or not len(children):
            return
        algorithm.evaluator.eval(problem, children)
        algorithm.tell(infills=children)
        yield number
        number += 1


def non_dominated(objectives: np.ndarray) -> list[int]:
    """Rows [N, objectives] that no other row beats in one objective without losing in another, in order."""
    rows = np.asarray(objectives, float)
    no_worse = (rows[:, None] <= rows[None]).all(-1)
    better = (rows[:, None] < rows[None]).any(-1)
    beaten = (no_worse & better).any(0)
    return [int(n) for n in np.flatnonzero(~beaten)]


def _algorithm(
    sizes: np.ndarray,
    first: np.ndarray,
    objectives: Callable[[np.ndarray], Sequence[float]],
    population: int,
    seed: int,
    rate: float,
) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its optional parts warn about what is not installed
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.mutation import Mutation
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination
        from pymoo.operators.crossover.ux import UniformCrossover

    class Choices(Problem):
        def __init__(self) -> None:
            wide = len(objectives(first[0]))
            super().__init__(n_var=len(sizes), n_obj=wide, xl=np.zeros(len(sizes)), xu=sizes - 1, vtype=int)

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = np.array([objectives(row.astype(int)) for row in X], float)

    class DrawnAnew(Mutation):
        def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
            fresh = random_state.integers(0, sizes, size=X.shape)
            return np.where(random_state.random(X.shape) < rate, fresh, X)

    algorithm, problem = (
        NSGA2(pop_size=population, sampling=first, crossover=UniformCrossover(), mutation=DrawnAnew(), seed=seed),
        Choices(),
    )
    algorithm.setup(problem, termination=NoTermination())
    return algorithm, problem
