"""A genotype: the recipe of a merged model as data, never a model.

Children are rebuilt from the parents' tensors each time, so errors do not accumulate over generations and
the size of a population is a few kilobytes. Genes, in the order in which they act on a tensor:

    sparsification (DARE | TIES) with a density per parent
    → interpolation (linear | SLERP) with weights per layer group and parent
    → strength per layer group (λ on the merged task vector)
    → layout: Frankenmerge (a layer from one parent instead of the blend) | DFS (which layer follows which)
    → a scale per layer on what it writes into the residual stream

Source of the two spaces, parameters and data flow: Akiba et al. 2024, arXiv:2403.13187, section 3. Recombination and
mutation are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from agent_forge.contract import canonical_json, digest_of
from agent_forge.phases.evomerge.frankenmerge import BLEND

if TYPE_CHECKING:
    import torch

MOVED_FRACTION = 0.35  # of continuous genes, per mutation; against all at once, one seed was better and one worse
DENSITY_STEPS = 32  # densities are multiples of 1/32: their exact thresholds are found once and kept
COMBINATIONS = tuple(
    (interpolation, sparsification, layout)
    for interpolation in ("linear", "slerp")
    for sparsification in ("dare", "ties")
    for layout in ("frankenmerge", "dfs")
)
"""The eight binary combinations of generation 0."""
RANDOM_PAIR = (0.5, 0.38, 0.24, 0.27)
"""Mean distance of random genotypes in methods, weights, amounts, layout (3 parents, 6 layers; a test measures it)."""


@dataclass(frozen=True)
class Space:
    """What genotypes can say about given parents.

    Attributes:
        parents: number of parents.
        layers: number of layers of each.
        groups: number of layer groups; group 0 is what precedes the layers, the last one what follows them.
        extra_layers: positions that the data flow may have beyond ``layers``.
        kinds: per layer, a number that interchangeable layers share (equal tensor names and shapes).
    """

    parents: int
    layers: int
    groups: int
    extra_layers: int = 0
    kinds: tuple[int, ...] = ()

    def group_of(self, layer: int | None, *, before: bool) -> int:
        """The group of a layer, or of a tensor outside the layers."""
        if layer is None:
            return 0 if before else self.groups - 1
        inner = self.groups - 2
        return 1 + layer * inner // self.layers if inner > 0 else 0

    def alike(self, layer: int) -> list[int]:
        """The layers that may stand where this one stands."""
        kinds = self.kinds or (0,) * self.layers
        return [other for other in range(self.layers) if kinds[other] == kinds[layer]]

    def fits(self, path: Sequence[int]) -> bool:
        """True if every position of a data flow gets a layer of the kind that the architecture has there."""
        kinds = self.kinds or (0,) * self.layers
        places = range(len(path))
        return all(kinds[path[place]] == kinds[min(place, self.layers - 1)] for place in places)


@dataclass(frozen=True)
class Genotype:
    """See the module; fields are rounded to 4 decimals so that equal recipes have equal digests.

    Attributes:
        interpolation: ``linear`` or ``slerp``.
        sparsification: ``ties`` or ``dare``.
        layout: ``frankenmerge`` or ``dfs``.
        weights: [groups][parents], each row ≥ 0 with sum 1.
        densities: [parents], multiples of 1/32 in 1/32–1.
        strengths: [groups], λ from 0 to the number of parents.
        sources: [layers], a parent or BLEND; all BLEND under ``dfs``.
        outside: the same for what lies outside the layers.
        path: [positions], which layer stands where; 0, 1, 2 … under ``frankenmerge``.
        scales: [positions], factor of what a layer writes into the stream.
        seed: of DARE's masks; 0 under ``ties``.
    """

    interpolation: Literal["linear", "slerp"]
    sparsification: Literal["ties", "dare"]
    layout: Literal["frankenmerge", "dfs"]
    weights: tuple[tuple[float, ...], ...]
    densities: tuple[float, ...]
    strengths: tuple[float, ...]
    sources: tuple[int, ...]
    outside: int
    path: tuple[int, ...]
    scales: tuple[float, ...]
    seed: int

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON."""
        return digest_of(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values, tuples as lists."""
        return {key: _listed(value) for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Genotype:
        """The inverse of `to_json`."""
        return cls(**{key: _tupled(entry) for key, entry in value.items()})

    def __str__(self) -> str:
        return canonical_json(self.to_json())


def tidy(genotype: Genotype, space: Space) -> Genotype:
    """Genes that do not act are set to their neutral value, the others into their range: one recipe, one digest."""
    dfs = genotype.layout == "dfs"
    identity = tuple(range(space.layers))
    path = genotype.path if dfs else identity
    scales = (*genotype.scales, *([1.0] * len(path)))[: len(path)]
    return replace(
        genotype,
        weights=tuple(_normalized(row) for row in genotype.weights),
        densities=tuple(_on_grid(density) for density in genotype.densities),
        strengths=tuple(round(min(max(value, 0.0), float(space.parents)), 4) for value in genotype.strengths),
        sources=(BLEND,) * space.layers if dfs else genotype.sources,
        outside=BLEND if dfs else genotype.outside,
        path=path,
        scales=tuple(round(min(max(value, 0.25), 4.0), 4) for value in scales),
        seed=genotype.seed if genotype.sparsification == "dare" else 0,
    )


def parent_genotype(parent: int, space: Space) -> Genotype:
    """The recipe "that parent, unchanged": all weight on it, so that a small mutation is a small step away from it."""
    row = tuple(float(other == parent) for other in range(space.parents))
    return tidy(replace(_neutral(space), weights=(row,) * space.groups), space)


def trunk_genotype(space: Space) -> Genotype:
    """The recipe "the trunk, unchanged": strength 0."""
    return tidy(replace(_neutral(space), strengths=(0.0,) * space.groups), space)


def average_genotype(space: Space, strength: float = 1.0) -> Genotype:
    """The plain mean of the parents (strength 1), or their mean task vector × strength."""
    return tidy(replace(_neutral(space), strengths=(strength,) * space.groups), space)


def founder(combination: Sequence[str], space: Space, generator: torch.Generator) -> Genotype:
    """A genotype of generation 0: that combination, equal weights, the papers' densities, a drawn layout."""
    interpolation, sparsification, layout = combination
    drawn = random_genotype(space, generator, combination=combination)
    density = 0.5 if sparsification == "dare" else 0.2
    return tidy(
        replace(
            _neutral(space),
            interpolation=interpolation,  # type: ignore[arg-type]
            sparsification=sparsification,  # type: ignore[arg-type]
            layout=layout,  # type: ignore[arg-type]
            densities=(density,) * space.parents,
            sources=drawn.sources,
            path=drawn.path,
            seed=drawn.seed,
        ),
        space,
    )


def random_genotype(space: Space, generator: torch.Generator, *, combination: Sequence[str] | None = None) -> Genotype:
    """An unbiased draw from the space: immigrants, and the control that evolution has to beat."""
    chosen = combination or COMBINATIONS[_integer(len(COMBINATIONS), generator)]
    weights = []
    for _ in range(space.groups):  # Dirichlet(1): uniform over the simplex
        draws = [-_log_uniform(generator) for _ in range(space.parents)]
        weights.append(tuple(draws))
    sources = tuple(_source(space, generator) for _ in range(space.layers))
    genotype = Genotype(
        interpolation=chosen[0],  # type: ignore[arg-type]
        sparsification=chosen[1],  # type: ignore[arg-type]
        layout=chosen[2],  # type: ignore[arg-type]
        weights=tuple(weights),
        densities=tuple(_uniform(generator, 0.05, 1.0) for _ in range(space.parents)),
        strengths=tuple(_uniform(generator, 0.3, min(2.0, float(space.parents))) for _ in range(space.groups)),
        sources=sources,
        outside=_source(space, generator),
        path=_shuffled_path(tuple(range(space.layers)), space, generator, 0.2),
        scales=tuple(_normal(generator, 1.0, 0.1) for _ in range(space.layers)),
        seed=_integer(1 << 31, generator),
    )
    return tidy(genotype, space)


def mutate(genotype: Genotype, space: Space, generator: torch.Generator, rate: float) -> Genotype:
    """A neighbour. ``rate`` 1 moves a third of the continuous genes by about 0.15 of their range, and flips one
    discrete gene in ten. With 30 genes, moving all of them at once is hardly ever a step upwards.
    """
    flip = min(0.1 * rate, 0.5)

    def other(options: tuple[str, str], value: str) -> Any:
        return options[1 - options.index(value)] if _uniform(generator) < flip else value

    def moved(value: float, deviation: float) -> float:
        return _normal(generator, value, deviation) if _uniform(generator) < MOVED_FRACTION else value

    layout = other(("frankenmerge", "dfs"), genotype.layout)
    return tidy(
        Genotype(
            interpolation=other(("linear", "slerp"), genotype.interpolation),
            sparsification=other(("dare", "ties"), genotype.sparsification),
            layout=layout,
            weights=tuple(tuple(max(0.0, moved(value, 0.15 * rate)) for value in row) for row in genotype.weights),
            densities=tuple(moved(value, 0.15 * rate) for value in genotype.densities),
            strengths=tuple(moved(value, 0.2 * rate) for value in genotype.strengths),
            sources=tuple(
                _source(space, generator) if _uniform(generator) < flip else value for value in genotype.sources
            ),
            outside=_source(space, generator) if _uniform(generator) < flip else genotype.outside,
            path=_shuffled_path(genotype.path, space, generator, flip / 2),
            scales=tuple(moved(value, 0.08 * rate) for value in genotype.scales),
            seed=_integer(1 << 31, generator) if _uniform(generator) < flip else genotype.seed,
        ),
        space,
    )


def recombine(parents: Sequence[Genotype], combination: Sequence[str], space: Space, g: torch.Generator) -> Genotype:
    """Three genotypes into one: drawn convex weights for continuous genes, one of them for each discrete gene.

    Args:
        parents: two or more.
        combination: the method combination of the child.
        space: their space.
        g: randomness.
    """
    shares = _normalized([-_log_uniform(g) for _ in parents])

    def mixed(values: Sequence[Sequence[float]]) -> tuple[float, ...]:
        longest = max(len(row) for row in values)
        padded = [(*row, *([1.0] * (longest - len(row)))) for row in values]
        return tuple(sum(share * row[i] for share, row in zip(shares, padded, strict=True)) for i in range(longest))

    layered = [parent for parent in parents if parent.layout == combination[2]] or list(parents)
    return tidy(
        Genotype(
            interpolation=combination[0],  # type: ignore[arg-type]
            sparsification=combination[1],  # type: ignore[arg-type]
            layout=combination[2],  # type: ignore[arg-type]
            weights=tuple(mixed([parent.weights[i] for parent in parents]) for i in range(space.groups)),
            densities=mixed([parent.densities for parent in parents]),
            strengths=mixed([parent.strengths for parent in parents]),
            sources=tuple(layered[_integer(len(layered), g)].sources[i] for i in range(space.layers)),
            outside=layered[_integer(len(layered), g)].outside,
            path=layered[_integer(len(layered), g)].path,
            scales=mixed([parent.scales for parent in parents]),
            seed=parents[_integer(len(parents), g)].seed,
        ),
        space,
    )


def distance(a: Genotype, b: Genotype, space: Space) -> float:
    """How different two recipes are, in units of two random ones: 0 is the same recipe, 1 like two random draws.

    The mean over methods, weights, amounts (densities and strengths) and layout, each divided by what it is
    on average between random genotypes (`RANDOM_PAIR`). A diversity of 0.3 thus means a population that is
    30% as spread out as random search.
    """
    methods = [a.interpolation != b.interpolation, a.sparsification != b.sparsification, a.layout != b.layout]
    weights = [
        sum(abs(x - y) for x, y in zip(row_a, row_b, strict=True)) / 2
        for row_a, row_b in zip(a.weights, b.weights, strict=True)
    ]
    amounts = [abs(x - y) for x, y in zip(a.densities, b.densities, strict=True)]
    amounts += [abs(x - y) / space.parents for x, y in zip(a.strengths, b.strengths, strict=True)]
    layout = [x != y for x, y in zip((*a.sources, a.outside), (*b.sources, b.outside), strict=True)]
    length = max(len(a.path), len(b.path))
    layout += [a.path[i : i + 1] != b.path[i : i + 1] for i in range(length)]
    parts: list[list[float]] = [[float(x) for x in methods], weights, amounts, [float(x) for x in layout]]
    return sum(sum(part) / len(part) / usual for part, usual in zip(parts, RANDOM_PAIR, strict=True)) / len(parts)


def diversity(population: Sequence[Genotype], space: Space) -> float:
    """The mean distance over all pairs; 0 for fewer than two."""
    pairs = [(a, b) for i, a in enumerate(population) for b in population[i + 1 :]]
    return sum(distance(a, b, space) for a, b in pairs) / len(pairs) if pairs else 0.0


def _neutral(space: Space) -> Genotype:
    """The plain mean: nothing trimmed, nothing dropped, no layer moved."""
    return Genotype(
        interpolation="linear",
        sparsification="dare",
        layout="frankenmerge",
        weights=((1 / space.parents,) * space.parents,) * space.groups,
        densities=(1.0,) * space.parents,
        strengths=(1.0,) * space.groups,
        sources=(BLEND,) * space.layers,
        outside=BLEND,
        path=tuple(range(space.layers)),
        scales=(1.0,) * space.layers,
        seed=0,
    )


def _shuffled_path(path: Sequence[int], space: Space, g: torch.Generator, chance: float) -> tuple[int, ...]:
    """Each position takes another interchangeable layer with that chance; the length changes by one at most."""
    moved = list(path)
    for position, layer in enumerate(moved):
        if _uniform(g) < chance:
            options = space.alike(layer)
            moved[position] = options[_integer(len(options), g)]
    if space.extra_layers and _uniform(g) < max(chance, 0.1):
        place, longer = _integer(len(moved), g), list(moved)
        if len(moved) < space.layers + space.extra_layers and _uniform(g) < 0.5:
            longer.insert(place, moved[place])
        elif len(moved) > 1:
            del longer[place]
        moved = longer if space.fits(longer) else moved
    return tuple(moved)


def _source(space: Space, generator: torch.Generator) -> int:
    """The blend half of the time, else a parent."""
    return BLEND if _uniform(generator) < 0.5 else _integer(space.parents, generator)


def _normalized(row: Sequence[float]) -> tuple[float, ...]:
    """Shares that sum to exactly 1, in ten-thousandths; the largest takes what rounding leaves, so it is idempotent."""
    positive = [max(float(value), 0.0) for value in row]
    total = sum(positive)
    shares = [round(10_000 * value / total) if total > 0 else round(10_000 / len(row)) for value in positive]
    largest = shares.index(max(shares))
    shares[largest] += 10_000 - sum(shares)
    return tuple(share / 10_000 for share in shares)


def _on_grid(density: float) -> float:
    return min(max(round(density * DENSITY_STEPS), 1), DENSITY_STEPS) / DENSITY_STEPS


def _uniform(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    import torch

    return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))


def _log_uniform(generator: torch.Generator) -> float:
    return math.log(max(_uniform(generator), 1e-12))


def _normal(generator: torch.Generator, mean: float, deviation: float) -> float:
    import torch

    return mean + deviation * float(torch.randn((), generator=generator, dtype=torch.float64))


def _integer(below: int, generator: torch.Generator) -> int:
    import torch

    return int(torch.randint(below, (), generator=generator))


def _listed(value: Any) -> Any:
    return [_listed(entry) for entry in value] if isinstance(value, tuple) else value


def _tupled(value: Any) -> Any:
    return tuple(_tupled(entry) for entry in value) if isinstance(value, list) else value
