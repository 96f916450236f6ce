"""A ternary checkpoint goes round: written, loaded, thawed, trained, written again."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.errors import HandoffError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import (
    FOUR_BITS,
    PER_ROW,
    PER_TENSOR,
    Layout,
    TernaryLinear,
    codes_of,
    is_exactly_ternary,
    rounded,
    ternary_linears,
)
from agent_forge.model.ternary_checkpoint import (
    changed_special_rows,
    finish_student,
    load_packed,
    save_ternary,
    thaw_student,
)
from agent_forge.model.ternary_selection import select, special_rows
from agent_forge.optim.ternary_training import TernaryTraining


def _written(model, tokenizer, folder, layouts):
    selection = select(model, tokenizer)
    for index, linear in enumerate(selection.linears.values()):
        TernaryLinear.from_linear(linear, layouts[index % len(layouts)])
    finish_student(model, selection)
    save_ternary(model, tokenizer, folder, selection, {"phase": "bitnet"})
    return folder


def _codes(model):
    return {name: codes_of(layer.weight.detach(), layer.layout) for name, layer in ternary_linears(model).items()}


@pytest.mark.parametrize("architecture", ["make_llama", "make_cognate"])
@pytest.mark.parametrize("layout", [Layout(PER_TENSOR), Layout(PER_ROW), Layout(16)])
def test_thawing_and_freezing_moves_no_code_and_hardly_a_scale(request, tokenizer, tmp_path, architecture, layout):
    model = request.getfixturevalue(architecture)()
    folder = _written(model, tokenizer, tmp_path / "a", [layout])
    before, (student, words) = _codes(load_model(folder)[0]), load_model(folder)
    selection, frozen = thaw_student(student, words)
    assert frozen == []
    finish_student(student, selection)
    for name, (codes, scale) in _codes(student).items():
        assert torch.equal(codes, before[name][0]), name
        assert torch.allclose(scale, before[name][1], rtol=2e-3), name


def test_a_trained_student_is_exactly_ternary_and_both_forms_are_equal(make_llama, tokenizer, tmp_path):
    folder = _written(make_llama(hidden=96), tokenizer, tmp_path / "a", [Layout(PER_ROW)])
    student, words = load_model(folder)
    selection, frozen = thaw_student(student, words)
    rows = special_rows(selection)
    training = TernaryTraining(
        student, matrices=list(selection.linears), frozen=frozen, learning_rate=0.05, adamw_learning_rate=0.05,
        protected={name: (selection.special_rows, values) for name, values in rows.items()},
    )  # fmt: skip
    tokens = torch.randint(5, 300, (4, 12), generator=torch.Generator().manual_seed(0))
    losses = []
    for _ in range(20):
        training.blend()
        loss = student(input_ids=tokens, labels=tokens, use_cache=False).loss
        losses.append(float(loss.detach()))
        figures = training.update(loss, rate=1.0, watch=True)
    assert losses[-1] < 0.8 * losses[0]
    assert figures["gradient_share"] > 0.5
    assert figures["gradient_norm"] > 0
    finish_student(student, selection)
    sizes = save_ternary(student, words, tmp_path / "b", selection, {"phase": "forge"})
    assert is_exactly_ternary(tmp_path / "b")
    assert sizes.compression_ratio > 2
    plain, packed = load_model(tmp_path / "b")[0].state_dict(), load_packed(tmp_path / "b")[0].state_dict()
    assert all(torch.equal(packed[name], value) for name, value in plain.items())
    assert changed_special_rows(rows, select(student, words)) == 0
    moved = load_model(folder)[0].state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(moved, plain["model.layers.0.mlp.up_proj.weight"])


def test_layers_with_more_levels_stay_as_they_are(make_llama, tokenizer, tmp_path):
    folder = _written(make_llama(), tokenizer, tmp_path / "a", [Layout(PER_ROW), Layout(PER_ROW, FOUR_BITS)])
    student, words = load_model(folder)
    selection, frozen = thaw_student(student, words)
    assert len(frozen) == 7
    training = TernaryTraining(student, matrices=list(selection.linears), frozen=frozen, learning_rate=0.5)
    before = {name: student.get_parameter(name).detach().clone() for name in frozen}
    tokens = torch.randint(5, 300, (2, 8), generator=torch.Generator().manual_seed(0))
    training.update(student(input_ids=tokens, labels=tokens, use_cache=False).loss, rate=1.0)
    finish_student(student, selection)
    save_ternary(student, words, tmp_path / "b", selection, {})
    again = load_model(tmp_path / "b")[0].state_dict()
    assert all(torch.equal(again[name], value) for name, value in before.items())


def test_rounded_weights_give_the_same_and_the_latent_ones_come_back(make_llama, tokenizer, tmp_path):
    student, words = load_model(_written(make_llama(), tokenizer, tmp_path / "a", [Layout(), Layout(PER_ROW)]))
    thaw_student(student, words)
    with torch.no_grad():
        for layer in ternary_linears(student).values():
            layer.weight.add_(torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)) * 0.01)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}
    tokens = torch.arange(5, 25)[None]
    with torch.no_grad():
        expected = student(tokens, use_cache=False).logits
        with rounded(student):
            assert all(layer.frozen for layer in ternary_linears(student).values())
            assert torch.equal(student(tokens, use_cache=False).logits, expected)
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())
    assert not any(layer.frozen for layer in ternary_linears(student).values())
    with pytest.raises(ZeroDivisionError), rounded(student):
        raise ZeroDivisionError
    assert all(torch.equal(p, before[name]) for name, p in student.named_parameters())


def test_a_model_without_ternary_layers_is_refused(make_llama, tokenizer):
    with pytest.raises(HandoffError, match="phase bitnet"):
        thaw_student(make_llama(), tokenizer)


def test_a_step_that_is_not_finite_changes_nothing(make_llama, tokenizer, tmp_path):
    student, words = load_model(_written(make_llama(), tokenizer, tmp_path / "a", [Layout()]))
    selection, frozen = thaw_student(student, words)
    training = TernaryTraining(student, matrices=list(selection.linears), frozen=frozen)
    before = training.state()
    tokens = torch.randint(5, 300, (2, 8), generator=torch.Generator().manual_seed(0))
    figures = training.update(student(input_ids=tokens, labels=tokens, use_cache=False).loss * torch.nan, rate=1.0)
    assert figures["gradient_norm"] != figures["gradient_norm"]
    assert all(torch.equal(student.get_parameter(name), value) for name, value in before["weights"].items())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([PER_TENSOR, PER_ROW, 4]))
def test_a_state_brings_back_the_same_steps(seed, group_size):
    torch.manual_seed(seed)
    layer = TernaryLinear.from_linear(torch.nn.Linear(8, 6, bias=False), Layout(group_size))
    model = torch.nn.Sequential(layer)
    training = TernaryTraining(model, matrices=["0.weight"], learning_rate=0.1, grokfast_lambda=0.5)
    inputs = torch.randn(5, 16, 8)

    def run(first, last):
        for step in range(first, last):
            training.update(model(inputs[step]).square().mean(), rate=1.0)

    run(0, 2)
    state = training.state()
    run(2, 5)
    straight = layer.weight.detach().clone()
    training.load_state(state)
    run(2, 5)
    assert torch.equal(layer.weight, straight)
