import copy
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from agent_forge.errors import HandoffError
from agent_forge.model import ternary
from agent_forge.model.ternary import FOUR_BITS, PER_ROW, PER_TENSOR, TERNARY, TWO_BITS, Layout, TernaryLinear


def test_absmean_by_hand():
    # mean|W| = (0.5 + 0.1 + 1 + 0 + 2 + 0.4 + 0 + 0) / 8 = 0.5; W / 0.5 = 1, -0.2, -2, 0, 4, 0.8, 0, 0
    weight = torch.tensor([[0.5, -0.1, -1.0, 0.0], [2.0, 0.4, 0.0, 0.0]])
    codes, scale = ternary.absmean_ternary(weight, PER_TENSOR)
    assert codes.tolist() == [[1, 0, -1, 0], [1, 1, 0, 0]]
    assert scale.tolist() == [[0.5]]
    # Rows: means 0.4 and 0.6; 0.5 / 0.4 = 1.25, 0.1 / 0.4 = 0.25, 2 / 0.6 = 3.3, 0.4 / 0.6 = 0.67
    codes, scale = ternary.absmean_ternary(weight, PER_ROW)
    assert codes.tolist() == [[1, 0, -1, 0], [1, 1, 0, 0]]
    assert torch.allclose(scale, torch.tensor([[0.4], [0.6]]), rtol=5e-4)
    # Groups of two: means 0.3, 0.5, 1.2, 0
    codes, scale = ternary.absmean_ternary(weight, 2)
    assert codes.tolist() == [[1, 0, -1, 0], [1, 0, 0, 0]]
    assert scale[1, 1] == 0


def test_rounding_is_not_the_sign():
    codes, _ = ternary.absmean_ternary(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    # A Gaussian is zero where |w| < mean|w| / 2 = 0.399 σ: 31.0% of the time.
    assert abs(float((codes == 0).float().mean()) - 0.310) < 0.02


LAYOUTS = st.builds(Layout, st.sampled_from([PER_TENSOR, PER_ROW, 4, 8]), st.sampled_from([3, 4, 15, 255]))


@settings(max_examples=60, deadline=None)
@given(LAYOUTS, st.integers(0, 10_000), st.sampled_from([1e-9, 1e-6, 0.02, 3.0, 1e3]), st.booleans())
def test_values_give_back_their_codes(layout, seed, size, sparse):
    weight = torch.randn(6, 16, generator=torch.Generator().manual_seed(seed)) * size
    if sparse:
        weight[:, 3:] = 0
    codes, scale = ternary.quantize(weight, layout)
    values = ternary.dequantize(codes, scale, layout)
    again, scale_again = ternary.codes_of(values, layout)
    assert torch.equal(ternary.dequantize(again, scale_again, layout), values)
    assert torch.equal(scale.half().float(), scale)
    assert codes.min() >= (-2 if layout.levels == 4 else -(layout.levels // 2))
    assert codes.max() <= (1 if layout.levels == 4 else layout.levels // 2)


def test_more_levels_lose_less():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    errors = []
    for layout in (Layout(0, TERNARY), Layout(0, TWO_BITS), Layout(64, FOUR_BITS)):
        errors.append(float((ternary.dequantize(*ternary.quantize(weight, layout), layout) - weight).square().mean()))
    assert errors[0] > 1.4 * errors[1] > 5 * errors[2]
    assert errors[1] == pytest.approx(0.1188, rel=0.03)  # Max 1960: uniform, four levels


def test_refuses_what_cannot_be_quantized():
    with pytest.raises(ValueError, match="does not divide"):
        ternary.absmean_ternary(torch.ones(2, 6), 4)
    with pytest.raises(ValueError, match="matrix"):
        ternary.absmean_ternary(torch.ones(6))
    with pytest.raises(ValueError, match="fp16"):
        ternary.absmean_ternary(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match="fp16"):
        ternary.absmean_ternary(torch.full((2, 2), 1e6))
    with pytest.raises(ValueError, match="levels"):
        ternary.quantize(torch.ones(2, 2), Layout(0, 5))
    assert ternary.fitting_group_size(704, 128) == PER_ROW
    assert ternary.fitting_group_size(704, 64) == 64


def test_estimator_passes_the_gradient_in_the_unit_of_the_weight():
    layer = TernaryLinear.from_linear(nn.Linear(4, 3, bias=False), Layout(), activation_bits=0)
    tokens = torch.randn(5, 4)
    out = layer(tokens)
    quantized = ternary.dequantize(*ternary.absmean_ternary(layer.weight.detach()), Layout())
    assert torch.allclose(out, tokens @ quantized.T)
    out.sum().backward()
    assert torch.allclose(layer.weight.grad, tokens.sum(0).expand(3, 4))


def test_blend_goes_from_plain_to_quantized():
    torch.manual_seed(0)
    linear = nn.Linear(8, 4)
    tokens = torch.randn(3, 8, requires_grad=True)
    plain = linear(tokens).detach()
    layer = TernaryLinear.from_linear(linear, Layout(PER_ROW), blend=0.0)
    assert torch.equal(layer(tokens), plain)
    layer.blend = 1.0
    full = layer(tokens).detach()
    layer.blend = 0.5
    between = layer(tokens)
    between.sum().backward()
    assert torch.isfinite(tokens.grad).all()
    assert not torch.equal(full, plain)
    assert (between.detach() - plain).norm() < (full - plain).norm()


def test_activations_by_hand():
    tokens = torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]])
    rounded = ternary.fake_quantize_activations(tokens)
    assert torch.allclose(rounded, torch.tensor([[1.27, -0.5, 0.0], [0.0, 0.0, 0.0]]))
    assert torch.allclose(ternary.fake_quantize_activations(torch.tensor([[127.0, 3.4]])), torch.tensor([[127.0, 3.0]]))


def test_runs_under_bf16_autocast():
    layer = TernaryLinear.from_linear(nn.Linear(64, 32), Layout(32))
    tokens = torch.randn(4, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(tokens)
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert layer.weight.grad.dtype == torch.float32
    assert torch.allclose(out.float(), layer(tokens), atol=0.05)


@pytest.mark.parametrize("group_size", [PER_TENSOR, PER_ROW, 4])
def test_freeze_changes_no_output_and_thaw_no_code(group_size):
    torch.manual_seed(0)
    layer = TernaryLinear.from_linear(nn.Linear(16, 8), Layout(group_size))
    tokens = torch.randn(5, 16)
    before = layer(tokens).detach()
    layer.freeze()
    assert torch.equal(layer(tokens), before)
    codes, scale = ternary.codes_of(layer.weight.detach(), layer.layout)
    layer.thaw()
    codes_after, scale_after = ternary.quantize(layer.weight.detach(), layer.layout)
    assert torch.equal(codes, codes_after)
    assert torch.allclose(scale, scale_after, rtol=1e-3)
    assert type(layer.to_linear()) is nn.Linear


def _save(model, folder):
    sidecar = ternary.freeze(model)
    save_file(model.state_dict(), folder / "model.safetensors")
    ternary.write_sidecar(folder, sidecar)


def _network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def test_a_saved_checkpoint_attaches_with_exactly_its_codes(tmp_path):
    model = _network()
    TernaryLinear.from_linear(model[0], Layout(8))
    TernaryLinear.from_linear(model[2], Layout(PER_ROW, TWO_BITS))
    tokens = torch.randn(3, 16)
    _save(model, tmp_path)
    assert ternary.is_exactly_ternary(tmp_path)
    loaded = _network()
    loaded.load_state_dict(copy.deepcopy(model.state_dict()))
    ternary.attach(loaded, tmp_path)
    assert set(ternary.ternary_linears(loaded)) == {"0.weight", "2.weight"}
    assert loaded[2].layout == Layout(PER_ROW, TWO_BITS)
    assert torch.equal(loaded(tokens), model(tokens))


def test_one_altered_value_is_not_exactly_ternary(tmp_path):
    model = _network()
    TernaryLinear.from_linear(model[0], Layout(8))
    _save(model, tmp_path)
    state = model.state_dict()
    state["0.weight"][3, 5] += 1e-4
    save_file(state, tmp_path / "model.safetensors")
    assert not ternary.is_exactly_ternary(tmp_path)
    altered = _network()
    altered.load_state_dict(state)
    with pytest.raises(HandoffError, match=r"0\.weight"):
        ternary.attach(altered, tmp_path)


def test_no_sidecar_or_no_ternary_tensor_is_not_ternary(tmp_path):
    model = _network()
    assert not ternary.is_exactly_ternary(tmp_path)
    assert ternary.attach(model, tmp_path) is model
    TernaryLinear.from_linear(model[0], Layout(PER_ROW, FOUR_BITS))
    _save(model, tmp_path)
    assert not ternary.is_exactly_ternary(tmp_path)


@pytest.mark.parametrize(
    "content", ["{", "[]", json.dumps({"format_version": 9, "activation_bits": 8, "tensors": {}}), '{"tensors": 3}']
)
def test_a_broken_sidecar_is_named(tmp_path, content):
    (tmp_path / "ternary.json").write_text(content)
    with pytest.raises(HandoffError, match=r"ternary\.json"):
        ternary.read_sidecar(tmp_path)


def test_a_sidecar_of_another_model_is_refused(tmp_path):
    ternary.write_sidecar(
        tmp_path, {"format_version": 1, "activation_bits": 8, "tensors": {"9.weight": {"group_size": 0, "levels": 3}}}
    )
    with pytest.raises(HandoffError, match=r"9\.weight"):
        ternary.attach(_network(), tmp_path)
