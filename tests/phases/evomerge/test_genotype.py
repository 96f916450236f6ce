import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.phases.evomerge.evolution import drawn_from
from agent_forge.phases.evomerge.frankenmerge import BLEND
from agent_forge.phases.evomerge.genotype import (
    COMBINATIONS,
    DENSITY_STEPS,
    Genotype,
    Space,
    average_genotype,
    distance,
    diversity,
    mutate,
    parent_genotype,
    random_genotype,
    recombine,
    tidy,
    trunk_genotype,
)

SPACES = st.builds(Space, st.integers(2, 4), st.integers(1, 8), st.integers(3, 6), st.integers(0, 2))


def valid(genotype: Genotype, space: Space) -> bool:
    low, high = space.layers if not space.extra_layers else 1, space.layers + space.extra_layers
    return (
        all(abs(sum(row) - 1) < 1e-3 and min(row) >= 0 and len(row) == space.parents for row in genotype.weights)
        and len(genotype.weights) == len(genotype.strengths) == space.groups
        and all(d * DENSITY_STEPS == round(d * DENSITY_STEPS) and 0 < d <= 1 for d in genotype.densities)
        and all(0 <= s <= space.parents for s in genotype.strengths)
        and all(BLEND <= s < space.parents for s in (*genotype.sources, genotype.outside))
        and low <= len(genotype.path) <= high
        and len(genotype.path) == len(genotype.scales)
        and space.fits(genotype.path)
        and tidy(genotype, space) == genotype
    )


@given(SPACES, st.integers(0, 10_000), st.floats(0.1, 5))
def test_drawn_mutated_and_recombined_genotypes_are_valid(space: Space, seed: int, rate: float) -> None:
    g = drawn_from(seed, "g")
    drawn = [random_genotype(space, g) for _ in range(3)]
    mutant = mutate(drawn[0], space, g, rate)
    child = recombine(drawn, COMBINATIONS[seed % 8], space, g)
    assert all(valid(genotype, space) for genotype in (*drawn, mutant, child))
    assert (child.interpolation, child.sparsification, child.layout) == COMBINATIONS[seed % 8]
    for genotype in (*drawn, mutant, child):
        again = Genotype.from_json(json.loads(str(genotype)))
        assert again == genotype
        assert again.digest == genotype.digest


@given(SPACES, st.integers(0, 1000))
def test_distance_is_a_distance(space: Space, seed: int) -> None:
    a, b, c = (random_genotype(space, drawn_from(seed, name)) for name in "abc")
    assert distance(a, a, space) == 0
    assert distance(a, b, space) == pytest.approx(distance(b, a, space))
    assert distance(a, c, space) <= distance(a, b, space) + distance(b, c, space) + 1e-9


def test_random_genotypes_are_about_one_apart() -> None:
    for space in (Space(3, 6, 4), Space(3, 2, 4), Space(2, 8, 6)):
        drawn = [random_genotype(space, drawn_from(5, str(i))) for i in range(40)]
        assert diversity(drawn, space) == pytest.approx(1, abs=0.12)
    assert diversity(drawn[:1], space) == 0


def test_genes_that_do_not_act_do_not_count() -> None:
    space = Space(3, 4, 4)
    base = average_genotype(space)
    ties = tidy(replace(base, sparsification="ties"), space)
    assert tidy(replace(ties, seed=77), space).digest == ties.digest
    dfs = tidy(replace(base, layout="dfs"), space)
    assert tidy(replace(dfs, sources=(1, 2, 0, 1), outside=2), space).digest == dfs.digest
    assert tidy(replace(base, path=(3, 2, 1, 0)), space).digest == base.digest
    assert tidy(replace(base, weights=((2.0, 2.0, 2.0),) * 4), space).digest == base.digest


def test_mutants_of_a_small_rate_stay_near() -> None:
    space = Space(3, 6, 4)
    start = random_genotype(space, drawn_from(0, "start"))
    near = [distance(start, mutate(start, space, drawn_from(i, "n"), 0.25), space) for i in range(30)]
    far = [distance(start, mutate(start, space, drawn_from(i, "n"), 2.0), space) for i in range(30)]
    assert 0 < sum(near) / 30 < 0.2 < sum(far) / 30


def test_anchors_say_what_they_mean() -> None:
    space = Space(3, 4, 5)
    assert set(parent_genotype(2, space).weights) == {(0.0, 0.0, 1.0)}
    near = mutate(parent_genotype(2, space), space, drawn_from(0, "m"), 0.25)
    assert all(row[2] > 0.8 for row in near.weights)  # a small mutation is a small step
    assert set(trunk_genotype(space).strengths) == {0.0}
    assert set(average_genotype(space).strengths) == {1.0}


def test_layers_of_other_kinds_are_not_swapped() -> None:
    space = Space(2, 5, 4, kinds=(0, 1, 1, 3, 1))
    for seed in range(60):
        genotype = random_genotype(space, drawn_from(seed, "k"), combination=("linear", "ties", "dfs"))
        assert genotype.path[0] == 0
        assert genotype.path[3] == 3
    assert any(
        random_genotype(space, drawn_from(s, "k"), combination=COMBINATIONS[1]).path != (0, 1, 2, 3, 4)
        for s in range(20)
    )


def test_groups_cover_the_model() -> None:
    space = Space(3, 6, 5)
    assert space.group_of(None, before=True) == 0
    assert space.group_of(None, before=False) == 4
    assert [space.group_of(layer, before=False) for layer in range(6)] == [1, 1, 2, 2, 3, 3]
