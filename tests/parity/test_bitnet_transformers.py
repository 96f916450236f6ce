"""Against `transformers`: its packing, and both of its BitNet linear classes."""

import importlib
import warnings

import pytest
import torch
from torch import nn

from agent_forge.model.ternary import Layout, TernaryLinear, codes_of
from agent_forge.phases.bitnet.int8_prefill import Int8TernaryLinear
from agent_forge.phases.bitnet.pack_transformers import pack_transformers, unpack_transformers, weight_scale

with warnings.catch_warnings():
    # Its decorators import the compiler of torch, which uses deprecated parts of torch.
    warnings.simplefilter("ignore", DeprecationWarning)
    bitnet = importlib.import_module("transformers.integrations.bitnet")


@pytest.fixture(autouse=True)
def _no_compiler():
    """The helpers of transformers are compiled on first use; the plain functions below them are what is compared."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _codes(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (rows, columns), generator=generator, dtype=torch.int8)


@pytest.mark.parametrize("shape", [(4, 1), (8, 3), (64, 48)])
def test_equal_bytes_both_ways(shape):
    codes = _codes(*shape)
    packed = pack_transformers(codes)
    # A clone, because pack_weights adds 1 to what it is given.
    assert torch.equal(packed, bitnet.pack_weights(codes.clone()))
    assert torch.equal(bitnet.unpack_weights(packed, torch.float32), codes.float())
    assert torch.equal(unpack_transformers(packed), codes)


def test_one_byte_by_hand():
    # Rows 1, 0, -1, 1 → digits 2, 1, 0, 2 → 2 + 1·4 + 0·16 + 2·64
    assert pack_transformers(torch.tensor([[1], [0], [-1], [1]], dtype=torch.int8)).tolist() == [[134]]


def _layer():
    torch.manual_seed(0)
    return TernaryLinear.from_linear(nn.Linear(64, 32, bias=False), Layout(0))


def test_fake_quantized_forward_equals_the_online_class():
    layer, tokens = _layer(), torch.randn(5, 64)
    online = bitnet.AutoBitLinear(64, 32, bias=False, online_quant=True)
    online.weight = layer.weight
    # fp16 scales here, fp32 there: half a unit of fp16 apart.
    assert torch.allclose(layer(tokens), online(tokens), rtol=1e-3, atol=1e-5)
    layer(tokens).square().sum().backward()
    ours, layer.weight.grad = layer.weight.grad, None
    online(tokens).square().sum().backward()
    assert torch.allclose(ours, layer.weight.grad, rtol=2e-3, atol=1e-4)


def test_frozen_layer_equals_both_offline_classes_and_int8():
    layer, tokens = _layer(), torch.randn(5, 64)
    layer.freeze()
    codes, scale = codes_of(layer.weight.detach(), layer.layout)
    packed = bitnet.BitLinear(64, 32, bias=False, dtype=torch.float32)
    packed.weight.copy_(pack_transformers(codes))
    packed.weight_scale.copy_(weight_scale(scale, "bitlinear"))
    offline = bitnet.AutoBitLinear(64, 32, bias=False)
    offline.weight.data.copy_(codes)
    offline.weight_scale.copy_(weight_scale(scale, "autobitlinear"))
    ours = layer(tokens)
    assert torch.allclose(ours, packed(tokens), rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours, offline(tokens), rtol=1e-5, atol=1e-6)
    assert torch.allclose(ours, Int8TernaryLinear.from_ternary(layer)(tokens), rtol=1e-5, atol=1e-6)


def test_the_two_conventions_differ_by_the_square():
    gamma = torch.tensor([[0.25]])
    ratio = weight_scale(gamma, "autobitlinear") / weight_scale(gamma, "bitlinear")
    assert ratio.item() == 0.0625


def test_refuses_what_the_layout_cannot_hold():
    with pytest.raises(ValueError, match="divisible by 4"):
        pack_transformers(_codes(6, 4))
    with pytest.raises(ValueError, match="group size 0"):
        weight_scale(torch.ones(4, 1), "bitlinear")
    with pytest.raises(ValueError, match="linear_class"):
        weight_scale(torch.ones(1, 1), "linear")
    with pytest.raises(ValueError, match="zeros"):
        weight_scale(torch.zeros(1, 1), "bitlinear")
