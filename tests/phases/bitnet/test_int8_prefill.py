import copy

import pytest
import torch
from torch import nn

from agent_forge.model.ternary import PER_ROW, PER_TENSOR, TWO_BITS, Layout, TernaryLinear
from agent_forge.phases.bitnet import int8_prefill
from agent_forge.phases.bitnet.int8_prefill import Int8TernaryLinear, integer_product, quantize_tokens, use_int8


def _layer(group_size, bias=True, out=48):
    torch.manual_seed(1)
    return TernaryLinear.from_linear(nn.Linear(64, out, bias=bias), Layout(group_size))


@pytest.mark.parametrize("group_size", [PER_TENSOR, PER_ROW, 16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 19, 64), (0, 64)])
def test_equals_the_fake_quantized_forward(group_size, bias, shape):
    layer, tokens = _layer(group_size, bias), torch.randn(shape)
    expected = layer(tokens)
    layer.freeze()
    got = Int8TernaryLinear.from_ternary(layer)(tokens)
    assert got.shape == expected.shape
    assert torch.allclose(got, expected, rtol=1e-5, atol=2e-6)


def test_portable_path_gives_the_same_integers(monkeypatch):
    left = torch.randint(-128, 128, (33, 64), dtype=torch.int8)
    right = torch.randint(-1, 2, (24, 64), dtype=torch.int8)
    fast = integer_product(left, right)

    def refuse(*_):
        raise RuntimeError("not on this device")

    monkeypatch.setattr(torch, "_int_mm", refuse)
    portable = integer_product(left, right)
    assert torch.equal(fast.float(), portable)
    assert torch.equal(portable, (left.long() @ right.long().t()).float())


@pytest.mark.parametrize("group_size", [PER_TENSOR, PER_ROW])
def test_every_way_gives_the_same_output(monkeypatch, group_size):
    layer, tokens = _layer(group_size), torch.randn(7, 64)
    layer.freeze()
    first = Int8TernaryLinear.from_ternary(layer)
    expected = first(tokens)
    monkeypatch.setattr(int8_prefill, "_prepare", lambda codes, scale: ())
    second = Int8TernaryLinear.from_ternary(layer)
    assert torch.allclose(second(tokens), expected, rtol=1e-6, atol=1e-7)
    assert second._prepared == ()


def test_a_used_layer_can_be_copied():
    layer, tokens = _layer(PER_ROW), torch.randn(7, 64)
    layer.freeze()
    used = Int8TernaryLinear.from_ternary(layer)
    expected = used(tokens)
    assert torch.equal(copy.deepcopy(used)(tokens), expected)


def test_tokens_by_hand():
    integers, scale = quantize_tokens(torch.tensor([[1.27, -0.5], [0.0, 0.0]]))
    assert integers.tolist() == [[127, -50], [0, 0]]
    assert scale[0].item() == pytest.approx(0.01)


def test_a_model_is_replaced_in_place_and_higher_layers_stay():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 8))
    for index, layout in ((0, Layout(16)), (2, Layout(PER_ROW, TWO_BITS))):
        TernaryLinear.from_linear(model[index], layout).freeze()
    tokens = torch.randn(3, 64)
    expected = model(tokens)
    use_int8(model)
    assert isinstance(model[0], int8_prefill.Int8TernaryLinear)
    assert isinstance(model[2], TernaryLinear)
    assert torch.allclose(model(tokens), expected, atol=1e-5)


def test_refuses_a_latent_layer():
    with pytest.raises(ValueError, match="frozen"):
        Int8TernaryLinear.from_ternary(_layer(PER_ROW))
    with pytest.raises(ValueError, match="do not fit"):
        Int8TernaryLinear(torch.zeros(4, 6, dtype=torch.int8), torch.ones(4, 4))
