"""Which expert answers: the classifier, and the way back to the base."""

import math

import numpy as np
import pytest
import torch
from tests.model.test_expert_vectors import disturbed

from agent_forge.agent.dispatch import (
    BASE,
    Dispatcher,
    TwoPass,
    fit_dispatcher,
    question_features,
    with_bar,
)
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import HandoffError
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.model.checkpoint import save_model
from agent_forge.model.expert_vectors import EXPERTS, basis_of, save_experts

QUESTIONS = ["How many eggs are there?", "Turn round: a b c", "Where is the dairy?"]
ANSWERS = [Document.chat([("user", text), ("assistant", f"It is {n}.")]) for n, text in enumerate(QUESTIONS * 4)]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer(QUESTIONS * 5 + ["It is 0. It is 1. It is 2."] * 5, 300)


def clouds(seed, count=40, size=6):
    """Three classes around different centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = 4 * torch.eye(size)[:3]
    return {
        name: centre + torch.randn(count, size, generator=generator)
        for name, centre in zip((BASE, "sums", "turns"), centres, strict=True)
    }


def test_two_points_by_hand():
    """Rows ±1 of two classes, spread 1 (all of it the ridge): scores ±x − 1/2, the border lies at 0."""
    found = fit_dispatcher({BASE: torch.tensor([[-1.0]]), "skill": torch.tensor([[1.0]])}, ridge=1.0)
    assert torch.allclose(found.weight, torch.tensor([[-1.0], [1.0]]), atol=1e-6)
    assert torch.allclose(found.bias, torch.full((2,), -0.5), atol=1e-6)
    assert found.choose(torch.tensor([[0.1], [-0.1]])) == ["skill", BASE]


def test_a_class_between_two_others_is_found():
    """Levels of one kind lie on a line; regression on one-hot classes would never say the middle one."""
    generator = torch.Generator().manual_seed(2)
    rows = {name: at + 0.1 * torch.randn(30, 3, generator=generator) for name, at in ((BASE, -1), ("2", 0), ("3", 1))}
    found = fit_dispatcher(rows)
    assert {name: found.choose(each).count(name) for name, each in rows.items()} == dict.fromkeys(rows, 30)


def test_clouds_are_told_apart_and_a_missing_expert_is_the_base():
    dispatcher = fit_dispatcher(clouds(0))
    held = clouds(1)
    for name, rows in held.items():
        assert dispatcher.choose(rows).count(name) / len(rows) > 0.9
    assert set(dispatcher.choose(held["sums"], ["turns"])) <= {BASE, "turns"}


def test_parity_with_the_densities_of_normal_distributions():
    """The likeliest of normal distributions with one covariance; differences of scores are those of log densities."""
    rows = clouds(3, count=9)
    found = fit_dispatcher(rows, ridge=0.5)
    x = torch.cat(list(rows.values())).double().numpy()
    centres = np.stack([each.double().numpy().mean(0) for each in rows.values()])
    inner = x - np.repeat(centres, 9, axis=0)
    covariance = inner.T @ inner / 27 + 0.5 / 9 * np.diag(x.var(0))
    far = x[:, None] - centres[None]
    density = -0.5 * np.einsum("ncd,de,nce->nc", far, np.linalg.inv(covariance), far)
    scores = x @ found.weight.double().numpy().T + found.bias.double().numpy()
    assert np.allclose(scores - scores[:, :1], density - density[:, :1], atol=1e-3)


def test_the_bar_by_hand():
    """Scores ±x: the lead is 2x. Ordinary leads −2 and 1, skilled 3 and 4: right about all from 1 to 3, so 2."""
    plain = Dispatcher((BASE, "skill"), torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    held = {BASE: torch.tensor([[-1.0], [0.5]]), "skill": torch.tensor([[1.5], [2.0]])}
    found = with_bar(plain, held)
    assert found.bias.tolist() == [2.0, 0.0]
    assert plain.choose(held[BASE]) == [BASE, "skill"]
    assert found.choose(held[BASE]) == [BASE, BASE]
    assert found.choose(held["skill"]) == ["skill", "skill"]


def test_the_bar_weighs_the_base_and_the_others_alike():
    """One ordinary question of two far among ten skilled ones: giving up the one costs less than giving up the ten."""
    plain = Dispatcher((BASE, "skill"), torch.tensor([[-1.0], [1.0]]), torch.zeros(2))
    held = {BASE: torch.tensor([[-1.0], [9.0]]), "skill": torch.arange(1.0, 9.0)[:, None]}
    assert with_bar(plain, held).choose(held["skill"]) == ["skill"] * 8
    with pytest.raises(ValueError, match="held questions"):
        with_bar(plain, {BASE: held[BASE]})


def test_a_bar_keeps_more_of_the_base_where_few_rows_were_sure():
    kept = {False: 0, True: 0}
    for seed in range(20):
        dispatcher, held = fit_dispatcher(clouds(seed, count=8)), clouds(seed + 100, count=200)
        for barred in kept:
            used = with_bar(dispatcher, clouds(seed + 50, count=40)) if barred else dispatcher
            kept[barred] += sum(used.choose(rows).count(name) for name, rows in held.items())
    assert kept[True] > kept[False]


def test_without_a_ridge_it_is_refused():
    with pytest.raises(ValueError, match="ridge"):
        fit_dispatcher(clouds(0), ridge=0.0)


@pytest.mark.parametrize("rows", [{}, {BASE: torch.ones(2, 2)}, {"a": torch.ones(1, 1), "b": torch.ones(1, 1)},
                                  {BASE: torch.ones(2, 2), "a": torch.ones(0, 2)}])  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(rows):
    with pytest.raises(ValueError, match="at least two classes"):
        fit_dispatcher(rows)


def test_features_do_not_depend_on_what_stands_beside_a_question(make_llama, words):
    model = make_llama()
    together = question_features(model, words, QUESTIONS)
    apart = torch.cat([question_features(model, words, [each]) for each in QUESTIONS])
    assert torch.allclose(together, apart, atol=1e-5)
    assert together.shape == (3, 32)


def test_written_beside_the_weights_and_opened_again(tmp_path, make_llama, words):
    model = make_llama()
    save_model(model, words, tmp_path, {})
    assert Dispatcher.open(tmp_path) is None
    assert TwoPass.open(tmp_path, model, words) is None
    basis = basis_of(model, 4)
    features = question_features(model, words, QUESTIONS)
    made = fit_dispatcher({BASE: features[:1], "skill": features[1:2], "gone": features[2:]}, ridge=1e-3)
    save_experts(tmp_path, [disturbed(basis)], basis)
    assert Dispatcher.open(tmp_path) is None
    save_experts(tmp_path, [disturbed(basis)], basis, more=made.to_tensors())
    found = Dispatcher.open(tmp_path)
    assert found is not None
    assert found.classes == made.classes
    assert torch.equal(found.weight, made.weight)
    two_pass = TwoPass.open(tmp_path, model, words)
    assert two_pass is not None
    # "gone" has no expert any more: its questions go to the base
    assert two_pass.choose(QUESTIONS) == [BASE, "skill", BASE]
    assert two_pass.choose([]) == []
    before = answer_nats(model, words, ANSWERS).mean
    with two_pass.using(BASE):
        assert answer_nats(model, words, ANSWERS).mean == before
    with two_pass.using("skill"):
        assert answer_nats(model, words, ANSWERS).mean != before
    with pytest.raises(KeyError), two_pass.using("gone"):
        pass


def test_a_broken_classifier_is_told(tmp_path, make_llama, words):
    model = make_llama()
    basis = basis_of(model, 4)
    made = fit_dispatcher(clouds(0)).to_tensors()
    for harm in ("weight", "bias"):
        save_experts(tmp_path, [disturbed(basis)], basis, more=made | {f"dispatch/{harm}": torch.full((3,), math.nan)})
        with pytest.raises(HandoffError, match=EXPERTS):
            Dispatcher.open(tmp_path)
