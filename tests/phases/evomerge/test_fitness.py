from __future__ import annotations

from pathlib import Path

import pytest

from agent_forge.data.corpora import Corpus
from agent_forge.evaluation.bits_per_byte import score
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.evomerge.candidate import ParentTensors, Resident
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.comparison import gain
from agent_forge.phases.evomerge.evolution import WORST
from agent_forge.phases.evomerge.fitness import SPECIFICATION, EvaluationTexts, Fitness, Measured, ask_tasks
from agent_forge.phases.evomerge.genotype import average_genotype, parent_genotype, trunk_genotype


@pytest.fixture(scope="module")
def fitness(world: Path) -> Fitness:
    parents = ParentTensors(
        CheckpointFolder(world / "trunk"), [CheckpointFolder(world / f"specialist{i}") for i in range(3)]
    )
    model, tokenizer = load_model(world / "trunk")
    corpus = Corpus.open(world / "corpus")
    documents = {domain: corpus.documents(domain, "selection")[:3] for domain in corpus.domains}
    space = parents.space(2, 0)
    texts = EvaluationTexts(tokenizer, documents, max_length=64)
    return Fitness(Resident(model, parents, space), texts, SPECIFICATION)


def test_one_pass_over_tokenized_texts_gives_what_score_gives(fitness: Fitness, world: Path) -> None:
    model, tokenizer = load_model(world / "specialist1")
    corpus = Corpus.open(world / "corpus")
    scores = fitness.texts.scores(model)
    assert scores is not None
    for domain in corpus.domains:
        slow = score(model, tokenizer, corpus.documents(domain, "selection")[:3], max_length=64)
        assert scores[domain].bits_per_byte == pytest.approx(slow.bits_per_byte, rel=1e-5)
        assert scores[domain].bytes == slow.bytes
        assert scores[domain].tokens == slow.tokens


def test_the_best_parent_is_worth_one(fitness: Fitness) -> None:
    space = fitness.resident.space
    originals = [parent_genotype(i, space) for i in range(3)]
    best = fitness.set_reference(originals)
    means = [fitness.measure(genotype).mean for genotype in originals]
    assert means[best] == min(means)
    assert fitness(originals[best]) == 1.0
    assert fitness(trunk_genotype(space)) != 1.0
    merged = fitness.measure(average_genotype(space))
    ratios = [merged.bits_per_byte[d] / fitness.reference.bits_per_byte[d] for d in fitness.texts.domains]
    assert fitness(average_genotype(space)) == pytest.approx(len(ratios) / sum(ratios))


def test_components_count_only_where_they_can_differ(fitness: Fitness) -> None:
    fitness.set_reference([parent_genotype(i, fitness.resident.space) for i in range(3)])
    domains = fitness.texts.domains
    measured = Measured(dict.fromkeys(domains, 2.0), 0.4, 3)
    assert set(fitness.components(measured)) == {"quality"}
    old = fitness.reference
    try:
        fitness.reference = Measured(dict.fromkeys(domains, 3.0), 0.2, 3)
        found = fitness.components(measured)
        assert found == pytest.approx({"quality": 1.5, "accuracy": 2.0})
        fitness.reference = Measured(dict.fromkeys(domains, 3.0), 0.04, 3)  # at chance: no component
        assert set(fitness.components(measured)) == {"quality"}
    finally:
        fitness.reference = old


def test_a_model_without_finite_loss_is_the_worst_and_survives_json(fitness: Fitness) -> None:
    fitness.set_reference([parent_genotype(i, fitness.resident.space) for i in range(3)])
    broken = Measured(dict.fromkeys(fitness.texts.domains, float("inf")), None, 3)
    assert Measured.from_json(broken.to_json()) == broken
    genotype = average_genotype(fitness.resident.space, 2.0)
    fitness.measured[genotype.digest] = broken
    assert fitness(genotype) == WORST


def test_tasks_are_asked(world: Path) -> None:
    model, tokenizer = load_model(world / "trunk")
    corpus = Corpus.open(world / "corpus")
    tasks = [task for domain in corpus.domains for task in corpus.tasks(domain, "selection")][:4]
    assert ask_tasks(tokenizer, [], 4) is None
    ask = ask_tasks(tokenizer, tasks, 4)
    assert ask is not None
    assert 0 <= ask(model) <= 1


def test_gains_are_relative_and_a_model_against_itself_is_no_gain(fitness: Fitness, world: Path) -> None:
    one = fitness.texts.scores(load_model(world / "specialist0")[0])
    two = fitness.texts.scores(load_model(world / "specialist1")[0])
    assert one is not None
    assert two is not None
    forward, back, none = gain(one, two), gain(two, one), gain(one, one)
    expected = [1 - one[d].bits_per_byte / two[d].bits_per_byte for d in one]
    assert forward.relative == pytest.approx(sum(expected) / len(expected))
    assert (forward.relative > 0) != (back.relative > 0)
    assert (none.relative, none.p_value) == (0.0, 1.0)
    assert 0 <= forward.p_value <= 1
