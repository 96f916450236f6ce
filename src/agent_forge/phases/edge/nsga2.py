"""NSGA-II over rows of choices in blocks, by `pymoo`.

Papers: Deb et al. 2002, "A fast and elitist multiobjective genetic algorithm: NSGA-II" (IEEE Transactions on
Evolutionary Computation 6(2)), section III; `pymoo` (Blank and Deb 2020, arXiv:2002.04504). Blocks: Thierens and Bosman
2011, "Optimal mixing evolutionary algorithms" (GECCO), where parts that belong together are exchanged as one.

What we do differently:
1. Genes are choices without an order: crossover takes each gene from either parent (uniform), or each block from either
   parent, by turns of a coin; mutation draws genes anew.
2. The first population begins with given genotypes, and each generation may be given one more: what was found to be
   best block by block (the paper tries each exchange by itself; here a caller knows what each block was worth).
3. A block that was tried before is drawn again, a few times.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

WasTried: TypeAlias = Callable[[int, np.ndarray], bool]
_REDRAWS = 8


def generations(
    sizes: np.ndarray,
    starts: Sequence[np.ndarray],
    objectives: Callable[[np.ndarray], Sequence[float]],
    *,
    population: int,
    seed: int,
    mutations: float = 2.0,
    blocks: int = 1,
    offspring: int | None = None,
    given: Callable[[], np.ndarray | None] = lambda: None,
    was_tried: WasTried = lambda block, genes: False,
) -> Iterator[int]:
    """Runs for as long as it is iterated.

    Args:
        sizes: [genes] number of choices of each.
        starts: genotypes [genes] that the first population has; random ones fill it up.
        objectives: genotype → what is to be small.
        population: genotypes that survive.
        seed: of everything.
        mutations: genes of each block that are drawn anew in a child, on average.
        blocks: equal parts of a genotype.
        offspring: children of a generation; None = as many as survive.
        given: a genotype that takes the place of the first child of a generation; None = none.
        was_tried: told the number of a block and its genes.

    Yields:
        The number of each generation, once all of it is measured.

    Raises:
        ValueError: a population of fewer than 4, blocks that do not divide the genes, or a start that is out of range.
    """
    sizes, count = np.asarray(sizes), len(sizes)
    first = [np.asarray(start) for start in starts]
    if population < 4 or any(len(start) != count or (start >= sizes).any() for start in first):
        raise ValueError(f"a population of {population} must be at least 4, and starts need {count} genes in range")
    if blocks < 1 or count % blocks:
        raise ValueError(f"{count} genes are not {blocks} equal blocks")
    generator = np.random.default_rng(seed)
    first += [generator.integers(0, sizes) for _ in range(max(0, population - len(first)))]
    algorithm, problem = _algorithm(
        _Blocks(sizes, blocks, mutations * blocks / count, was_tried), np.stack(first), objectives, population,
        offspring or population, seed,
    )  # fmt: skip
    number = 0
    while True:
        children = algorithm.ask()
        if children is None or not len(children):
            return
        extra = given() if number else None
        if extra is not None:
            children[0].set("X", np.asarray(extra))
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


@dataclass(frozen=True)
class _Blocks:
    """How children come about."""

    sizes: np.ndarray
    blocks: int
    rate: float
    was_tried: WasTried

    def crossed(self, parents: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """[2, matings, genes] children of [2, matings, genes] parents."""
        _, matings, genes = parents.shape
        whole = np.repeat(generator.random((matings, self.blocks)) < 0.5, genes // self.blocks, axis=1)
        single = generator.random((matings, genes)) < 0.5
        swap = np.where(generator.random((matings, 1)) < (0.5 if self.blocks > 1 else 0.0), whole, single)
        return np.stack([np.where(swap, parents[1], parents[0]), np.where(swap, parents[0], parents[1])])

    def mutated(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """[N, genes] with genes drawn anew; a block that was tried before is changed again, up to a bound."""
        width = rows.shape[1] // self.blocks
        found = rows.copy()
        for row in found:
            for block in range(self.blocks):
                part = slice(block * width, (block + 1) * width)
                before = row[part].copy()
                for _ in range(_REDRAWS):
                    fresh = generator.integers(0, self.sizes[part])
                    row[part] = np.where(generator.random(width) < self.rate, fresh, before)
                    if not self.was_tried(block, row[part]):
                        break
        return found


def _algorithm(
    blocks: _Blocks,
    first: np.ndarray,
    objectives: Callable[[np.ndarray], Sequence[float]],
    population: int,
    offspring: int,
    seed: int,
) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its optional parts warn about what is not installed
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.crossover import Crossover
        from pymoo.core.mutation import Mutation
        from pymoo.core.problem import Problem
        from pymoo.core.termination import NoTermination

    sizes = blocks.sizes

    class Choices(Problem):
        def __init__(self) -> None:
            wide = len(objectives(first[0]))
            super().__init__(n_var=len(sizes), n_obj=wide, xl=np.zeros(len(sizes)), xu=sizes - 1, vtype=int)

        def _evaluate(self, X: np.ndarray, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = np.array([objectives(row.astype(int)) for row in X], float)

    class Exchanged(Crossover):
        def __init__(self) -> None:
            super().__init__(2, 2)

        def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
            return blocks.crossed(X, random_state)

    class DrawnAnew(Mutation):
        def _do(self, problem: Any, X: np.ndarray, *args: Any, random_state: Any = None, **kwargs: Any) -> np.ndarray:
            return blocks.mutated(X, random_state)

    algorithm = NSGA2(
        pop_size=population, n_offsprings=offspring, sampling=first, crossover=Exchanged(), mutation=DrawnAnew(),
        seed=seed,
    )  # fmt: skip
    problem = Choices()
    algorithm.setup(problem, termination=NoTermination())
    return algorithm, problem
