import math

import pytest
import torch

from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, pack
from agent_forge.model import ternary
from agent_forge.model.forward import accepted
from agent_forge.model.ternary import TERNARY, Layout
from agent_forge.model.ternary_selection import select, special_rows
from agent_forge.phases.bitnet.calibration import calibrate
from agent_forge.phases.bitnet.recovery import Recovery, distillation_loss, warm_up
from agent_forge.phases.bitnet.ternarization import make_student, set_levels


def _batches(tokenizer, texts):
    shard = pack([Document(text) for text in texts], tokenizer)
    return Batches({"text": shard}, {"text": 1.0}, sequence_length=24, batch_size=8, seed=0)


def _student(teacher, tokenizer):
    linears = select(teacher, tokenizer).linears
    calibration = calibrate(teacher, linears, (), group_size=-1, finer_group_size=-1, finer_above=1.0)
    student, selection = make_student(teacher, tokenizer, calibration, activation_bits=8)
    set_levels(student, dict.fromkeys(selection.linears, TERNARY))
    return student, selection


def test_losses_by_hand():
    logits, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[math.log(3.0), 0.0]])
    hidden = torch.tensor([[1.0, 0.0]])
    loss, parts = distillation_loss(
        logits, teacher, torch.tensor([0]), hidden, hidden, weights=(1.0, 1.0, 1.0), temperature=1.0
    )
    assert parts["bitnet/cross_entropy"] == pytest.approx(math.log(2))
    # KL((3/4, 1/4) ‖ (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2
    assert parts["bitnet/divergence"] == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-5)
    assert parts["bitnet/relation"] == pytest.approx(0, abs=1e-7)
    assert float(loss) == pytest.approx(sum(value for name, value in parts.items() if name != "bitnet/loss"), rel=1e-5)


def test_relations_ignore_length_and_rotation():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(600, 8, generator=generator)
    turn, _ = torch.linalg.qr(torch.randn(8, 8, generator=generator))
    logits, labels = torch.zeros(600, 3), torch.zeros(600, dtype=torch.long)
    _, same = distillation_loss(logits, logits, labels, hidden @ turn * 3, hidden, weights=(0, 0, 1), temperature=1)
    _, other = distillation_loss(logits, logits, labels, hidden.flip(0), hidden, weights=(0, 0, 1), temperature=1)
    assert set(same) == {"bitnet/loss", "bitnet/relation"}
    assert abs(same["bitnet/relation"]) < 1e-4 < other["bitnet/relation"]


def test_warm_up_rises_to_one():
    assert [warm_up(step, 4) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert warm_up(0, 0) == 1.0


@pytest.mark.parametrize("architecture", ["make_llama", "make_cognate"])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_training_recovers_and_special_rows_stay(request, tokenizer, texts, architecture, optimizer):
    teacher = request.getfixturevalue(architecture)().requires_grad_(False)
    student, selection = _student(teacher, tokenizer)
    before = special_rows(selection)
    recovery = Recovery(
        student, teacher, matrices=list(selection.linears) if optimizer == "muon" else [],
        protected={name: (selection.special_rows, values) for name, values in before.items()}, learning_rate=5e-3,
        weights=(0.0, 1.0, 0.1),
    )  # fmt: skip
    batches = _batches(tokenizer, texts)
    losses = [
        recovery.step(batches.batch(step), rate=1.0, blends={}, watch=True)["bitnet/divergence"] for step in range(30)
    ]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(torch.equal(rows, special_rows(selection)[name]) for name, rows in before.items())
    assert not torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_frozen_parameters_do_not_move(make_llama, tokenizer, texts):
    teacher = make_llama().requires_grad_(False)
    student, selection = _student(teacher, tokenizer)
    recovery = Recovery(student, teacher, matrices=list(selection.linears), frozen=list(selection.tables))
    recovery.step(_batches(tokenizer, texts).batch(0), rate=1.0, blends={})
    for name, table in selection.tables.items():
        assert torch.equal(table, dict(teacher.named_parameters())[name])


def test_blends_are_set_and_teacher_is_untouched_at_zero(make_llama, tokenizer, texts):
    teacher = make_llama().requires_grad_(False)
    student, selection = _student(teacher, tokenizer)
    recovery = Recovery(student, teacher, matrices=list(selection.linears), weights=(0.0, 1.0, 1.0))
    for layer in ternary.ternary_linears(student).values():
        layer.blend = 0.0
    _, parts = recovery.loss(_batches(tokenizer, texts).batch(0))
    assert abs(parts["bitnet/loss"]) < 1e-5
    recovery.step(_batches(tokenizer, texts).batch(0), rate=0.0, blends={next(iter(selection.linears)): 0.25})
    assert sorted({layer.blend for layer in ternary.ternary_linears(student).values()}) == [0.25, 1.0]


def test_only_what_a_model_takes_is_handed_on(make_llama, make_cognate, tokenizer, texts):
    batch = _batches(tokenizer, texts).batch(0)
    assert set(accepted(make_llama(), batch)) == {"input_ids"}
    assert set(accepted(make_cognate(), batch)) == {"input_ids", "document_ids"}


def test_layout_of_a_student_is_that_of_its_calibration(make_llama, tokenizer):
    student, _ = _student(make_llama(), tokenizer)
    assert {layer.layout for layer in ternary.ternary_linears(student).values()} == {Layout(-1)}
