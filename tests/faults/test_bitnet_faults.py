"""Failures of phase 4, injected for real: RISK-002, RISK-004, PR4, and a file that was altered."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from agent_forge.errors import PhaseFailed
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear, dequantize, quantize
from agent_forge.model.ternary_selection import select, special_rows
from agent_forge.optim.ternary_training import gradient_share
from agent_forge.phases import load
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.pipeline.memory_context import MemoryContext


@pytest.fixture(scope="module")
def folders(trained_cognate):
    return trained_cognate(50, intermediate_size=64, num_hidden_layers=1)


def _run(folders, place, **changes):
    settings = {
        "sequence_length": 32, "batch_size": 8, "calibration_samples": 8, "stages": 1, "stage_steps": 1,
        "recovery_steps": 0, "validation_documents": 2, "test_documents": 4, "precision": "fp32",
    }  # fmt: skip
    context = MemoryContext(place)
    inputs = {
        "model": context.adopt("checkpoint", folders / "model"),
        "corpus": context.adopt("corpus", folders / "corpus"),
    }
    result = load("bitnet").run(BitnetConfig(**{**settings, **changes}), inputs, context)
    return context, context.path(result["model"])


class _SignlessRounding(nn.Module):
    """The control: the same layer without an estimator, so that rounding gives its true derivative, zero."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.scale = linear.weight, nn.Parameter(linear.weight.detach().abs().mean())

    def forward(self, tokens):
        rounded = (self.weight / self.scale.detach()).round().clamp(-1, 1)
        return F.linear(tokens, rounded * self.scale.detach())


def _task():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(256, 32, generator=generator)
    teacher = torch.randn(16, 32, generator=generator)
    wanted = dequantize(*quantize(teacher, Layout()), Layout())
    return tokens, tokens @ wanted.t()


def _train(layer, tokens, expected, steps=150):
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = F.mse_loss(layer(tokens), expected)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_risk_004_the_loss_falls_with_the_estimator_and_stalls_without():
    tokens, expected = _task()
    torch.manual_seed(1)
    start = nn.Linear(32, 16, bias=False)
    with torch.no_grad():
        start.weight.mul_(5)
    control = _SignlessRounding(nn.Linear(32, 16, bias=False))
    control.weight = nn.Parameter(start.weight.detach().clone())
    stalled = _train(control, tokens, expected)
    layer = TernaryLinear.from_linear(start, Layout(), activation_bits=0)
    falling = _train(layer, tokens, expected)
    assert falling[-1] < 0.2 * falling[0]
    assert stalled[-1] == pytest.approx(stalled[0])
    assert torch.count_nonzero(control.weight.grad) == 0
    assert torch.isfinite(layer.weight.grad).all()
    assert gradient_share(nn.Sequential(layer)) > 0.99


def test_risk_004_is_reported_when_gradients_vanish(folders, tmp_path, monkeypatch):
    # The injection: an estimator whose backward forgets to pass anything on.
    def nothing(ctx, *gradients):
        return torch.zeros_like(gradients[0]), None, None

    monkeypatch.setattr("agent_forge.model.ternary._WeightEstimator.backward", staticmethod(nothing))
    context, _ = _run(folders, tmp_path, stage_bound=1e9, stage_warmup_fraction=0.0)
    assert [failure for failure, _, _ in context.warnings] == ["RISK-004"]
    assert context.warnings[0][2]["gradient_share"] == 0.0


def test_pr4_a_model_that_quantization_destroys_climbs_to_fp16(folders, tmp_path):
    # One step per stage and a bound of half a percent: nothing below full precision can hold.
    context, folder = _run(folders, tmp_path, stage_bound=1.005, stage_attempts=20, learning_rate=1e-9)
    rungs = [set(attempt["levels"].values()) for attempt in context.attachments["bitnet"]["stages"]]
    seen = {rung for levels in rungs for rung in levels}
    assert rungs[0] == {"ternary"}
    assert {"2 bits", "4 bits"} <= seen
    assert {failure for failure, _, _ in context.warnings} == {"PR4"}
    assert context.measured["bitnet/layers_kept_higher"] > 0
    # What stayed higher is told on disk, and no more is lost than the bound allows.
    assert context.measured["bitnet/perplexity_ratio"] < 1.1
    precisions = {layer["precision"] for layer in context.attachments["bitnet"]["layers"].values()}
    assert precisions <= {"ternary", "2 bits", "4 bits", "fp16"}
    assert precisions != {"ternary"}
    loaded, _ = load_model(folder)
    assert loaded is not None


def test_pr4_with_few_attempts_gives_up_to_fp16_and_no_gate_calls_that_ternary(folders, tmp_path):
    context, _ = _run(folders, tmp_path, stage_bound=1.0001, stage_attempts=2, learning_rate=1e-9)
    layers = context.attachments["bitnet"]["layers"]
    assert {layer["precision"] for layer in layers.values()} == {"fp16"}
    assert context.measured["bitnet/layers_kept_higher"] == len(layers)
    assert context.measured["bitnet/exactly_ternary"] == 0.0


@pytest.mark.parametrize("train_embeddings", [False, True])
def test_risk_002_special_rows_survive_even_when_embeddings_train(folders, tmp_path, train_embeddings):
    context, folder = _run(
        folders, tmp_path, stage_bound=1e9, recovery_steps=3, train_embeddings=train_embeddings,
        other_learning_rate=0.05,
    )  # fmt: skip
    teacher, tokenizer = load_model(folders / "model")
    student, _ = load_model(folder)
    before, after = special_rows(select(teacher, tokenizer)), special_rows(select(student, tokenizer))
    assert before.keys() == after.keys()
    assert all(torch.equal(rows, after[name]) for name, rows in before.items())
    assert context.measured["bitnet/special_rows_identical"] == 1.0
    table = teacher.get_input_embeddings().weight[5:]
    moved = (student.get_input_embeddings().weight[5:] - table).abs().max()
    assert (moved > 0.02) == train_embeddings


def test_risk_002_a_moved_row_is_seen(folders):
    from agent_forge.model.ternary_checkpoint import changed_special_rows

    model, tokenizer = load_model(folders / "model")
    selection = select(model, tokenizer)
    before = special_rows(selection)
    assert changed_special_rows(before, selection) == 0
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 0] += 1e-6
    assert changed_special_rows(before, selection) == 1


def test_a_loss_that_is_not_a_number_stops_the_phase(folders, tmp_path):
    with pytest.raises(PhaseFailed, match="learning_rate"):
        _run(folders, tmp_path, stage_bound=1e9, stage_steps=5, learning_rate=1e30, other_learning_rate=1e30)
