from collections import Counter

import pytest

from agent_forge.phases.evomerge.evolution import WORST, Evolution, drawn_from, family_tree, random_search
from agent_forge.phases.evomerge.genotype import COMBINATIONS, Genotype, Space, distance, parent_genotype
from agent_forge.phases.evomerge.genotype import random_genotype as draw

SPACE = Space(3, 6, 4)
TARGET = draw(SPACE, drawn_from(99, "target"))


def closeness(genotype: Genotype) -> float:
    return 2 - distance(genotype, TARGET, SPACE)


def test_generation_0_is_the_eight_binary_combinations() -> None:
    first = next(iter(Evolution(SPACE, closeness).run()))
    found = {(m.genotype.interpolation, m.genotype.sparsification, m.genotype.layout) for m in first.members}
    assert found == set(COMBINATIONS)
    assert len(COMBINATIONS) == 8
    assert {m.origin for m in first.members} == {"founder"}


def test_two_elites_are_mutated_three_times_and_six_losers_are_merged_into_two() -> None:
    history = list(Evolution(SPACE, closeness, generations=1, minimum_diversity=0.0).run())
    first, second = history
    origins = Counter(member.origin for member in second.members)
    assert origins == {"mutant": 6, "recombined": 2}
    elites = {member.genotype.digest for member in first.members[:2]}
    losers = {member.genotype.digest for member in first.members[2:]}
    children = Counter(m.parents[0] for m in second.members if m.origin == "mutant")
    assert children == dict.fromkeys(elites, 3)
    merged = [m.parents for m in second.members if m.origin == "recombined"]
    assert [len(set(parents)) for parents in merged] == [3, 3]
    assert set(merged[0]) | set(merged[1]) == losers


@pytest.mark.parametrize(("population", "elites"), [(4, 1), (8, 2), (10, 2), (20, 5)])
def test_other_population_sizes(population: int, elites: int) -> None:
    last = list(Evolution(SPACE, closeness, population=population, generations=2, minimum_diversity=0.0).run())[-1]
    assert len(last.members) == population
    assert sum(m.origin == "mutant" for m in last.members) == 3 * elites


def test_it_beats_as_many_random_genotypes_and_never_loses_its_best() -> None:
    history = list(Evolution(SPACE, closeness, generations=30, patience=30).run())
    best = [generation.best.fitness for generation in history]
    assert best == sorted(best)
    control = max(i.fitness for i in random_search(SPACE, closeness, history[-1].evaluations, 0, {}))
    assert best[-1] > control > best[0]


def test_diversity_is_kept_by_immigrants() -> None:
    kept = list(Evolution(SPACE, closeness, generations=30, patience=30, seed=2).run())
    lost = list(Evolution(SPACE, closeness, generations=30, patience=30, seed=2, minimum_diversity=0.0).run())
    assert min(generation.diversity for generation in kept) >= 0.3
    assert sum(generation.immigrants for generation in kept) > 0
    assert min(generation.diversity for generation in lost) < 0.3


def test_the_mutation_rate_rises_with_immigrants_and_comes_back() -> None:
    rates = [
        g.mutation_rate for g in Evolution(SPACE, closeness, generations=30, patience=30, minimum_diversity=0.5).run()
    ]
    assert max(rates) > 1
    assert min(rates) == 1


def test_a_generation_names_the_mutation_rate_that_it_was_made_with() -> None:
    history = list(Evolution(SPACE, closeness, generations=3, minimum_diversity=1.0).run())
    assert history[1].immigrants > 0
    assert [generation.mutation_rate for generation in history[:3]] == [1.0, 1.0, 1.25]


def test_convergence_is_declared_after_patience_without_gain() -> None:
    flat = list(Evolution(SPACE, lambda genotype: 1.0, generations=50, patience=4).run())
    assert flat[-1].number == 4
    assert flat[-1].converged
    assert not flat[-2].converged


def test_anchors_compete_but_are_not_members() -> None:
    anchor = parent_genotype(1, SPACE)
    best_anchor = Evolution(SPACE, lambda g: 5.0 if g == anchor else closeness(g), anchors=[anchor], generations=2)
    history = list(best_anchor.run())
    assert {generation.best.genotype for generation in history} == {anchor}
    assert all(anchor not in [m.genotype for m in generation.members] for generation in history)


def test_equal_seeds_give_equal_runs_and_each_recipe_is_evaluated_once() -> None:
    calls: Counter[str] = Counter()

    def counted(genotype: Genotype) -> float:
        calls[genotype.digest] += 1
        return closeness(genotype)

    one = list(Evolution(SPACE, counted, generations=6, seed=3).run())
    assert max(calls.values()) == 1
    assert one[-1].evaluations == len(calls)
    assert one == list(Evolution(SPACE, closeness, generations=6, seed=3).run())
    assert one != list(Evolution(SPACE, closeness, generations=6, seed=4).run())


@pytest.mark.parametrize("killed_in", [0, 1, 4])
def test_a_replay_from_the_cache_goes_on_as_if_never_killed(killed_in: int) -> None:
    whole = list(Evolution(SPACE, closeness, generations=6, seed=5).run())
    broken = Evolution(SPACE, closeness, generations=6, seed=5)
    for generation in broken.run():
        if generation.number == killed_in:
            break
    known = dict(broken.cache)
    asked: list[str] = []

    def remembered(genotype: Genotype) -> float:
        asked.append(genotype.digest)
        return closeness(genotype)

    again = list(Evolution(SPACE, remembered, generations=6, seed=5, cache=dict(known)).run())
    assert [g.best for g in again] == [g.best for g in whole]
    assert [g.members for g in again] == [g.members for g in whole]
    assert not set(asked) & set(known)


def test_a_smaller_population_from_some_generation_on() -> None:
    evolution = Evolution(SPACE, closeness, generations=4)
    evolution.shrink(3, 4)
    assert [len(generation.members) for generation in evolution.run()] == [8, 8, 8, 4, 4]


def test_a_fitness_that_is_not_a_number_is_the_worst() -> None:
    evolution = Evolution(SPACE, lambda g: float("nan") if g.layout == "dfs" else 1.0, generations=1)
    history = list(evolution.run())
    assert history[0].members[-1].fitness == WORST
    assert history[0].best.genotype.layout == "frankenmerge"


def test_the_family_tree_knows_everyone_and_the_champion() -> None:
    history = list(Evolution(SPACE, closeness, generations=2).run())
    tree = family_tree(history, history[-1].best.genotype)
    ids = {node["id"] for node in tree["nodes"]}
    assert tree["champion"] in ids
    assert {m.genotype.digest[:12] for g in history for m in g.members} <= ids
    assert all(set(node["parents"]) <= ids for node in tree["nodes"] if node["generation"] <= 2)
