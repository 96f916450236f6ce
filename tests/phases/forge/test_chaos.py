import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.phases.forge.chaos import INPUT_SHARE, LIMIT, Chaos, disturb_tokens, noisy_weights, sensitivity


@settings(deadline=None)
@given(st.lists(st.one_of(st.floats(allow_nan=True), st.floats(0, 1)), max_size=20))
def test_no_way_above_the_limit(asked):
    chaos = Chaos(0.1, gain=5.0)
    for value in asked:
        chaos.value = value
        assert 0 <= chaos.value <= LIMIT
        chaos.follow(min(1.0, max(0.0, value)) if math.isfinite(value) else 1.0)
        assert 0 <= chaos.value <= LIMIT


def test_the_controller_by_hand():
    chaos = Chaos(0.1, wanted=0.75, gain=0.2)
    assert chaos.follow(0.95) == pytest.approx(0.14)
    assert chaos.follow(0.25) == pytest.approx(0.04)
    assert chaos.follow(0.0) == 0
    chaos.value = 0.6
    assert chaos.value == LIMIT
    assert chaos.refused == 1
    chaos.halve()
    assert chaos.value == LIMIT / 2


def test_without_a_controller_chaos_comes_back_to_what_was_asked_for():
    chaos = Chaos(0.2)
    chaos.value = 0.6
    assert chaos.settle(0.2) == 0.2
    chaos.halve()
    chaos.halve()
    assert chaos.settle(0.2) == pytest.approx(0.1)
    assert chaos.settle(0.2) == pytest.approx(0.2)
    assert chaos.settle(0.0) == chaos.settle(0.2) == 0


def test_tokens_are_replaced_by_others_of_the_batch_and_marks_stay():
    ids = torch.arange(4000).view(4, 1000) % 50
    replaceable = ids >= 5
    shown, touched = disturb_tokens(ids, replaceable, 0.2, torch.Generator().manual_seed(0))
    assert not touched[~replaceable].any()
    assert torch.equal(shown[~touched], ids[~touched])
    assert float(touched[replaceable].float().mean()) == pytest.approx(0.2 * INPUT_SHARE, abs=0.01)
    assert set(shown.unique().tolist()) <= set(ids[replaceable].unique().tolist()) | {0, 1, 2, 3, 4}
    again, _ = disturb_tokens(ids, replaceable, 0.2, torch.Generator().manual_seed(0))
    assert torch.equal(shown, again)
    quiet, none = disturb_tokens(ids, replaceable, 0.0, torch.Generator())
    assert torch.equal(quiet, ids)
    assert not none.any()
    marks = torch.zeros(1, 3, dtype=torch.long)
    assert torch.equal(disturb_tokens(marks, marks > 0, 0.3, torch.Generator())[0], marks)


def test_weights_move_for_the_block_alone_and_gradients_stay():
    layer = TernaryLinear.from_linear(nn.Linear(32, 16, bias=False), Layout())
    model = nn.Sequential(layer)
    before = layer.weight.detach().clone()
    with noisy_weights(model, 0.3, torch.Generator().manual_seed(0)):
        moved = (layer.weight.detach() - before).std() / before.abs().mean()
        model(torch.randn(4, 32)).sum().backward()
    assert float(moved) == pytest.approx(0.15, rel=0.2)
    assert torch.equal(layer.weight, before)
    assert layer.weight.grad is not None
    with pytest.raises(ZeroDivisionError), noisy_weights(model, 0.3, torch.Generator()):
        raise ZeroDivisionError
    assert torch.equal(layer.weight, before)


class _Stack(nn.Module):
    """Every layer multiplies: half of the directions by ``factor``, the others by 1."""

    def __init__(self, factor, num_layers, width=64):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, width), nn.Linear(width, 20, bias=False)
        self.factor, self.num_layers = factor, num_layers
        with torch.no_grad():
            self.embedding.weight[:, : width // 2] = 0

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, use_cache=False):
        x = self.embedding(input_ids)
        half = x.shape[-1] // 2
        for _ in range(self.num_layers):
            x = torch.cat([x[..., :half] * self.factor, x[..., half:]], -1)
        return self.head(x)


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_sensitivity_of_a_linear_stack_by_hand(factor):
    torch.manual_seed(0)
    batch = {"input_ids": torch.arange(20)[None]}
    found = sensitivity(_Stack(factor, 6), batch, 6)
    # of the difference half the squared length is multiplied by factor⁶, the states are not
    expected = math.log(math.sqrt((factor**12 + 1) / 2)) / 6
    assert found == pytest.approx(expected, abs=0.03)


def test_sensitivity_of_the_model_is_finite_and_repeatable(folders):
    model, _ = load_model(folders / "model")
    batch = {"input_ids": torch.arange(5, 45)[None]}
    first = sensitivity(model, batch, 2)
    assert math.isfinite(first)
    assert sensitivity(model, batch, 2) == first
