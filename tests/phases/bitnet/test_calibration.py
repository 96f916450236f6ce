import pytest
import torch
from torch import nn

from agent_forge.model.ternary import PER_ROW, PER_TENSOR, Layout, dequantize, quantize
from agent_forge.phases.bitnet.calibration import by_sensitivity, calibrate, in_stages


class Wrapped(nn.Module):
    def __init__(self, columns=8):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(columns, 16, bias=False)
        self.second = nn.Linear(16, 4, bias=False)

    def forward(self, tokens):
        return self.second(self.first(tokens))


def _calibrate(model, batches, **changes):
    settings = {"group_size": PER_TENSOR, "finer_group_size": 4, "finer_above": 1.0, **changes}
    linears = {"first.weight": model.first, "second.weight": model.second}
    return calibrate(model, linears, batches, **settings)


def test_error_is_that_of_the_outputs():
    model, tokens = Wrapped(), torch.randn(3, 5, 8) * torch.tensor([1.0, 1, 1, 1, 9, 0, 0, 0])
    found = _calibrate(model, [{"tokens": tokens}, {"tokens": 2 * tokens}])["first.weight"]
    weight = model.first.weight.detach()
    lost = (dequantize(*quantize(weight, Layout()), Layout()) - weight) @ tokens.flatten(0, 1).t()
    whole = weight @ tokens.flatten(0, 1).t()
    assert found.sensitivity == pytest.approx(float(lost.square().sum() / whole.square().sum()), rel=1e-4)
    assert found.absmax == pytest.approx(float(2 * tokens.abs().max()))
    # One column carries nearly everything: largest / root mean square is near √8.
    assert 2 < found.outlier_ratio <= 8**0.5


def test_without_samples_the_weights_decide():
    model = Wrapped()
    found = _calibrate(model, [])["first.weight"]
    weight = model.first.weight.detach()
    error = (dequantize(*quantize(weight, Layout()), Layout()) - weight).square().sum() / weight.square().sum()
    assert found.sensitivity == pytest.approx(float(error), rel=1e-5)
    assert found.absmax == 0


def test_a_sensitive_layer_gets_finer_groups_if_that_helps():
    model = Wrapped()
    with torch.no_grad():
        model.first.weight[:, 4:] *= 30
    found = _calibrate(model, [{"tokens": torch.randn(64, 8)}], finer_above=0.15)["first.weight"]
    assert set(found.errors) == {PER_TENSOR, 4}
    assert found.group_size == 4
    assert found.errors[4] < found.errors[PER_TENSOR]
    # 3 columns cannot be cut into groups of 4: one scale per row instead.
    assert _calibrate(Wrapped(3), [], group_size=4)["first.weight"].group_size == PER_ROW


def test_order_and_stages():
    model = Wrapped()
    found = _calibrate(model, [{"tokens": torch.randn(64, 8)}])
    order = by_sensitivity(found)
    assert found[order[0]].sensitivity <= found[order[1]].sensitivity
    assert in_stages(list("abcde"), 2) == [["a", "b"], ["c", "d", "e"]]
    assert in_stages(list("ab"), 5) == [["a"], ["b"]]
    with pytest.raises(ValueError, match="at least one"):
        in_stages(list("ab"), 0)
