import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from agent_forge.errors import ArtifactCorrupt
from agent_forge.model.packed_file import read_packed, round_for_packing, write_packed
from agent_forge.model.ternary import FOUR_BITS, PER_ROW, PER_TENSOR, TERNARY, TWO_BITS, Layout, TernaryLinear
from agent_forge.model.ternary_selection import select, special_rows


def _quantized(model, tokenizer, embedding_bits=8):
    selection = select(model, tokenizer)
    layouts = [Layout(PER_TENSOR), Layout(PER_ROW), Layout(16), Layout(PER_ROW, TWO_BITS), Layout(16, FOUR_BITS), None]
    for index, linear in enumerate(selection.linears.values()):
        layout = layouts[index % len(layouts)]
        if layout is not None:
            TernaryLinear.from_linear(linear, layout).freeze()
    round_for_packing(model, selection.tables, selection.special_rows, embedding_bits=embedding_bits)
    return selection


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bits", [8, 16, 32])
def test_every_tensor_comes_back_bit_for_bit(make_llama, tokenizer, tmp_path, tied, bits):
    model = make_llama(tied=tied, hidden=96)
    selection = select(model, tokenizer)
    before = special_rows(selection)
    selection = _quantized(model, tokenizer, bits)
    size = write_packed(model, tmp_path / "p", selection.tables, selection.special_rows)
    assert size == (tmp_path / "p").stat().st_size
    state = read_packed(tmp_path / "p")
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor), name
        assert state[name].dtype == tensor.dtype
    for name, rows in before.items():
        assert torch.equal(state[name][list(selection.special_rows)], rows)


def test_fewer_bits_are_fewer_bytes_and_equal_models_equal_bytes(make_llama, tokenizer, tmp_path):
    sizes = {}
    for bits in (8, 16, 32):
        model = make_llama(hidden=96)
        selection = _quantized(model, tokenizer, bits)
        sizes[bits] = write_packed(model, tmp_path / f"{bits}", selection.tables, selection.special_rows)
    assert sizes[8] < sizes[16] < sizes[32]
    model = make_llama(hidden=96)
    selection = _quantized(model, tokenizer, 8)
    write_packed(model, tmp_path / "again", selection.tables, selection.special_rows)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "8").read_bytes()


def test_writing_never_changes_a_value(make_llama, tokenizer, tmp_path):
    model = make_llama(hidden=96)
    selection = select(model, tokenizer)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_packed(model, tmp_path / "p", selection.tables, selection.special_rows)
    assert all(torch.equal(value, expected[name]) for name, value in read_packed(tmp_path / "p").items())


def test_rows_too_small_for_a_scale_are_not_lost(make_llama, tokenizer, tmp_path):
    model = make_llama(hidden=96)
    with torch.no_grad():
        model.model.embed_tokens.weight[7] = 1e-6
    selection = _quantized(model, tokenizer, 8)
    write_packed(model, tmp_path / "p", selection.tables, selection.special_rows)
    row = read_packed(tmp_path / "p")["model.embed_tokens.weight"][7]
    assert torch.allclose(row, torch.full_like(row, 1e-6), rtol=0.1)


def test_what_is_broken_is_named(make_llama, tokenizer, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(ArtifactCorrupt, match="no packed checkpoint"):
        read_packed(tmp_path / "other")
    model = make_llama(hidden=96)
    selection = _quantized(model, tokenizer)
    write_packed(model, tmp_path / "p", selection.tables, selection.special_rows)
    with safe_open(tmp_path / "p", framework="pt") as file:
        header = json.loads(file.metadata()["packed"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(n for n, entry in header["tensors"].items() if entry["form"] == "ternary")
    tensors[f"{name}.codes"] = tensors[f"{name}.codes"][:-1].clone()
    save_file(tensors, tmp_path / "p", metadata={"packed": json.dumps(header)})
    with pytest.raises(ArtifactCorrupt, match="base-3"):
        read_packed(tmp_path / "p")
    with pytest.raises(ValueError, match="embedding_bits"):
        round_for_packing(model, {}, (), embedding_bits=4)
    assert header["tensors"][name]["levels"] == TERNARY
