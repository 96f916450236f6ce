"""Weights inside a graph: packed forms by hand, and one graph with a product of every kind against torch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agent_forge.model.ternary import EIGHT_BITS, PER_ROW, Layout, TernaryLinear, dequantize, quantize
from agent_forge.phases.edge.onnx_cpu import IntegerLinear, integer_logits
from agent_forge.phases.edge.onnx_web import UnpackedLinear
from agent_forge.phases.edge.onnx_weights import Beside, PlainLinear, Table, float_logits, integer_codes, pack_digits

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def _ternary(inputs, outputs, layout, seed=0, bits=8):
    torch.manual_seed(seed)
    layer = TernaryLinear.from_linear(nn.Linear(inputs, outputs, bias=False), layout, activation_bits=bits)
    layer.freeze()
    return layer


def test_digits_by_hand():
    # 7 inputs, 1 output: ⌈7 / 5⌉ = 2 bytes; byte 0 holds rows 0, 2, 4, 6, 8, byte 1 rows 1, 3, 5, 7, 9
    codes = torch.tensor([[1], [-1], [0], [1], [-1], [0], [1]], dtype=torch.int8)
    first = 2 * 1 + 1 * 3 + 0 * 9 + 2 * 27 + 0 * 81  # 1, 0, −1, 1, nothing
    second = 0 * 1 + 2 * 3 + 1 * 9  # −1, 1, 0, nothing, nothing
    assert pack_digits(codes).tolist() == [[first], [second]]


@given(st.integers(1, 23), st.integers(1, 4), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_digits_come_back(rows, columns, seed):
    codes = torch.randint(-1, 2, (rows, columns), generator=torch.Generator().manual_seed(seed), dtype=torch.int8)
    packed = pack_digits(codes)
    assert packed.shape == (-(-rows // 5), columns)
    digits = torch.cat([packed.int() // 3**power % 3 for power in range(5)])[:rows] - 1
    assert torch.equal(digits.to(torch.int8), codes)


@pytest.mark.parametrize("levels", [3, 4, 15])
def test_integer_codes_are_the_weights(levels):
    layer = _ternary(8, 6, Layout(PER_ROW, levels))
    codes, scale = integer_codes(layer)
    assert torch.equal(codes.float() * scale[:, None], layer.weight)


def test_scales_of_groups_have_no_integer_form():
    with pytest.raises(ValueError, match="groups of 4 inputs"):
        integer_codes(_ternary(8, 6, Layout(4)))


def test_a_table_takes_the_smallest_form_that_is_exact():
    weight = torch.randn(40, 64)
    layout = Layout(PER_ROW, EIGHT_BITS)
    rounded = dequantize(*quantize(weight, layout), layout)
    protected = rounded.clone()
    protected[3] = weight[3]
    assert Table(rounded).form == "int8"
    assert not Table(rounded).has_special
    assert Table(protected).places.tolist() == [[3]]
    assert Table(weight.half().float()).form == "fp16"
    assert Table(weight).form == "fp32"


class _Everything(nn.Module):
    def __init__(self, layers, table):
        super().__init__()
        self.parts = nn.ModuleList(layers)
        self.table = Table(table)

    def forward(self, x):
        features = torch.cat([x[:, :1, :8]] * 8, -1)[0]
        chosen = self.table.chosen(torch.tensor([[7, 3, 29]]))
        return (
            *(part(x) for part in self.parts),
            *(head(features, self.table) for head in (integer_logits, float_logits)),
            chosen,
            self.table.whole(),
        )


def test_every_product_and_table_is_exact_in_the_graph(tmp_path):
    tensor, row = _ternary(12, 8, Layout(), 1), _ternary(12, 5, Layout(PER_ROW), 2)
    four, fifteen = _ternary(12, 8, Layout(PER_ROW, 4), 3), _ternary(12, 8, Layout(0, 15), 4)
    groups, wide = _ternary(12, 6, Layout(4), 5), _ternary(12, 6, Layout(), 6, bits=0)
    plain = nn.Linear(12, 3)
    layout = Layout(PER_ROW, EIGHT_BITS)
    table = dequantize(*quantize(torch.randn(30, 64), layout), layout)
    table[7] = torch.randn(64)
    layers = [
        IntegerLinear([tensor, row]), IntegerLinear([four]), IntegerLinear([fifteen]), UnpackedLinear([row, tensor]),
        UnpackedLinear([wide]), PlainLinear([groups]), Beside([PlainLinear([plain]), IntegerLinear([row])]),
    ]  # fmt: skip
    x = torch.randn(1, 4, 12) * torch.tensor([1.0, 1e-7, 30.0, 0.0])[:, None]  # small, large and empty tokens
    path = tmp_path / "all.onnx"
    from agent_forge.phases.edge.export_onnx import quiet

    with quiet(), torch.no_grad():
        torch.onnx.export(
            _Everything(layers, table).eval(), (x,), dynamo=True, opset_version=23, verbose=False, optimize=False
        ).save(path, external_data=False)  # fmt: skip
        expected = [
            torch.cat([tensor(x), row(x)], -1), four(x), fifteen(x), torch.cat([row(x), tensor(x)], -1), wide(x),
            groups(x), torch.cat([plain(x), row(x)], -1), *[torch.cat([x[0, :1, :8]] * 8, -1) @ table.T] * 2,
        ]  # fmt: skip
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    *products, chosen, rows = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for product, wanted in zip(products, expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(product), wanted, rtol=1e-5, atol=1e-6)
    assert torch.equal(torch.from_numpy(rows), table)
    assert torch.equal(torch.from_numpy(chosen)[0], table[[7, 3, 29]])
