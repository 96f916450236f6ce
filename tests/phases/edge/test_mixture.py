"""A mixture for a task: the search, halves that both hold every skill, and the way back to the base."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.model.test_expert_vectors import disturbed

from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.evaluation.statistics import clearly_lower
from agent_forge.model.expert_vectors import Expert, applied, basis_of, identity
from agent_forge.phases.edge.expert_training import VectorTraining, supervised_loss
from agent_forge.phases.edge.mixture import cross_entropy_search, halves, search_mixture

QUESTIONS = ["How many eggs are there?", "Turn round: a b c", "Where is the dairy?"]
ANSWERS = [Document.chat([("user", text), ("assistant", f"It is {n}.")]) for n, text in enumerate(QUESTIONS * 4)]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(QUESTIONS * 5 + ["It is 0. It is 1. It is 2."] * 5, 300)


@pytest.mark.parametrize("skills", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("each", [2, 3, 8])
def test_both_halves_hold_every_skill_as_often(skills, each):
    groups = [[Document(f"{number} of {name}", str(name)) for number in range(each)] for name in range(skills)]
    counts = [[half.count(name) for name in map(str, range(skills))] for half in map(domains, halves(groups))]
    assert all(abs(one - other) <= 1 for one, other in zip(*counts, strict=True))
    assert min(map(min, counts)) >= 1
    assert abs(sum(counts[0]) - sum(counts[1])) <= 1


def domains(documents):
    return [document.domain for document in documents]


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_the_search_is_never_worse_than_one_expert_alone(count, seed):
    def cost(weights):
        return sum((w - 0.3 * n) ** 2 for n, w in enumerate(weights))

    found = cross_entropy_search(
        cost, count, generator=torch.Generator().manual_seed(seed), population=6, generations=2, elite_fraction=0.3
    )
    alone = [tuple(float(n == k) for k in range(count)) for n in range(count)]
    assert cost(found) <= min(map(cost, alone))


def test_the_search_finds_the_least_cost_of_a_bowl():
    def cost(weights):
        return math.inf if weights[0] > 1.2 else (weights[0] - 0.8) ** 2 + (weights[1] + 0.2) ** 2

    generator = torch.Generator().manual_seed(0)
    found = cross_entropy_search(cost, 2, generator=generator, population=24, generations=12, elite_fraction=0.25)
    assert found == pytest.approx((0.8, -0.2), abs=0.1)
    with pytest.raises(ValueError, match="cannot search"):
        cross_entropy_search(cost, 0, generator=generator, population=4, generations=1, elite_fraction=0.5)


def test_a_mixture_that_is_no_better_falls_back_to_the_base(make_llama, words):
    """Experts far from 1 harm: the base is taken, and the cost of the best mixture is told all the same."""
    model = make_llama()
    basis = basis_of(model, 8)
    found = search_mixture(
        model, words, [disturbed(basis, "a", spread=6.0, seed=3)], [ANSWERS],
        generator=torch.Generator().manual_seed(0), population=2, generations=1,
    )  # fmt: skip
    before = answer_nats(model, words, ANSWERS[1::2]).mean
    assert found.base_nats == pytest.approx(before)
    assert (found.mixture is None) == (found.weights == (0.0,))
    unchanged = search_mixture(
        model, words, [identity(basis)], [ANSWERS], generator=torch.Generator().manual_seed(0), population=2,
        generations=1,
    )  # fmt: skip
    assert unchanged.mixture is None
    assert unchanged.mixture_nats == unchanged.base_nats
    with pytest.raises(ValueError, match="at least 4 examples"):
        search_mixture(model, words, [identity(basis)], [ANSWERS[:2], ANSWERS[2:3]], generator=torch.Generator())


def test_a_mixture_that_helps_is_taken(make_llama, words):
    """An expert along the gradient of the loss: its mixture is better on examples that the search did not see."""
    model = make_llama().requires_grad_(False)
    basis = basis_of(model, 16)
    shard = pack(ANSWERS, words)
    batches = Batches({"a": shard}, {"a": 1.0}, sequence_length=48, batch_size=4, seed=0, mask_prompts=True)
    training = VectorTraining(model, basis, learning_rate=0.1)
    for step in range(10):
        with training.applied():
            assert training.update(supervised_loss(model, batches.batch(step)), 1.0)
    expert = Expert("a", {name: z.half().float() for name, z in training.copies().items()}, basis.digest)
    found = search_mixture(model, words, [expert], [ANSWERS], generator=torch.Generator().manual_seed(0), population=4)
    assert found.mixture is not None
    assert found.mixture_nats < found.base_nats
    with applied(model, found.mixture):
        assert answer_nats(model, words, ANSWERS[1::2]).mean == pytest.approx(found.mixture_nats)


@pytest.mark.parametrize(
    ("gap", "answer"), [([-1.0, -1.1, -0.9], True), ([-1.0, 1.2, -0.1], False), ([0.0, 0.0], False), ([-1.0], False),
                        ([float("nan"), -1.0], False)],
)  # fmt: skip
def test_clearly_lower(gap, answer):
    assert clearly_lower(np.asarray(gap), np.zeros(len(gap))) is answer
