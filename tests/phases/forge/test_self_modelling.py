import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.model.checkpoint import load_model
from agent_forge.phases.forge.self_modelling import (
    SelfModel,
    complexity,
    confidence,
    expected_calibration_error,
    fit_confidence,
    layers_of,
    middle_states,
    question_states,
)


def test_the_error_starts_at_one_and_no_gradient_reaches_the_target():
    own = SelfModel(4)
    last = torch.randn(3, 5, 4, requires_grad=True)
    middle = torch.randn(3, 5, 4, requires_grad=True)
    valid = torch.ones(3, 5, dtype=torch.bool)
    loss = own.loss(last, middle * 7 + 3, valid)
    assert float(loss.detach()) == pytest.approx(1, rel=1e-5)
    loss.backward()
    assert middle.grad is None
    assert own.projection.weight.grad is not None


def test_a_network_whose_middle_can_be_read_off_is_predicted():
    torch.manual_seed(0)
    own, last = SelfModel(4), torch.randn(1, 200, 4)
    middle = last @ torch.randn(4, 4)
    valid = torch.ones(1, 200, dtype=torch.bool)
    optimizer = torch.optim.Adam(own.parameters(), lr=0.05)
    for _ in range(300):
        loss = own.loss(last, middle, valid)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.01


def test_the_middle_layer_is_found_in_any_architecture(folders):
    model, _ = load_model(folders / "model")
    assert len(layers_of(model)) == 2
    with middle_states(model) as seen, torch.no_grad():
        model(torch.arange(5, 15)[None], use_cache=False)
    assert seen[0].shape == (1, 10, 48)
    with pytest.raises(ValueError, match="no list of layers"):
        layers_of(torch.nn.Linear(2, 2))


def test_confidence_of_what_can_be_told_apart():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(400, 6, generator=generator)
    right = states[:, 0] + 0.3 * torch.randn(400, generator=generator) > 0
    fitted = fit_confidence(states[:200], right[:200])
    said = confidence(states[200:], fitted)
    assert ((said > 0.5) == right[200:]).float().mean() > 0.8
    assert expected_calibration_error(said.numpy(), right[200:].numpy()) < 0.12
    nothing = confidence(torch.randn(50, 6, generator=generator), fit_confidence(states, torch.ones(400) > 0))
    assert bool((nothing > 0.9).all())


def test_calibration_error_by_hand():
    said = np.array([0.95, 0.95, 0.05, 0.05])
    assert expected_calibration_error(said, np.array([True, True, False, False])) == pytest.approx(0.05)
    assert expected_calibration_error(said, np.array([True, False, False, False])) == pytest.approx(0.25)
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == 0
    with pytest.raises(ValueError, match="confidences"):
        expected_calibration_error(np.array([]), np.array([]))


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40))
def test_calibration_error_is_a_share(rows):
    said, right = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    assert 0 <= expected_calibration_error(said, right) <= 1


def test_rank_and_states(folders):
    model, tokenizer = load_model(folders / "model")
    states = question_states(model, tokenizer, ["3 + 4 = ?", "5 + 6 = ?"])
    assert states.shape == (2, 48)
    assert torch.equal(states, question_states(model, tokenizer, ["3 + 4 = ?", "5 + 6 = ?"]))
    flat = torch.outer(torch.arange(20.0), torch.ones(48))
    assert complexity(model, flat)["forge/effective_rank"] == pytest.approx(1, abs=0.01)
    assert complexity(model, torch.randn(200, 8))["forge/effective_rank"] > 7
