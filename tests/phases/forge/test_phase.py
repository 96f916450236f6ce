"""The phase on a tiny ternary model: contract, figures, determinism, kill and resume."""

import json

import pytest
import torch
from tests.phases.fragile import FragileContext, Killed

from agent_forge.contract import Phase, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.practice import DOMAIN
from agent_forge.data.tokenizer import thought_ids
from agent_forge.errors import HandoffError, Interrupted
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.ternary import is_exactly_ternary
from agent_forge.model.ternary_checkpoint import load_packed, save_ternary, thaw_student
from agent_forge.model.ternary_selection import select, special_rows
from agent_forge.phases import load
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.phase import make_course
from agent_forge.phases.forge.practice import Plan
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens
from agent_forge.pipeline.memory_context import MemoryContext

CONFIG = ForgePhaseConfig(
    sampling="edge", stages=3, stage_steps=20, domains=("drills",), top_level=3, questions=60, batch_size=8,
    assessment_questions=8, answer_tokens=16, own_answers=4, chaos=0.1, chaos_gain=0.2, dream_every=2,
    dream_questions=16, dream_band=(1.0, 1e9), dream_tolerance=1.0, self_modelling_weight=0.1, precision="fp32",
    grokfast_lambda=0.5, sequence_length=48, checkpoint_every=8, validation_questions=6, test_questions=8,
    test_documents=4, learning_rate=2e-2, other_learning_rate=1e-2, advance_success=0.05, edge_success=0.04,
    embedding_bits=16, hold_weight=0.1,
)  # fmt: skip
GATES = {
    "forge/exactly_ternary", "forge/special_rows_identical", "forge/curriculum_loss_reduction",
    "forge/sure_forgetting_points", "forge/forgetting_points",
    "forge/bits_per_byte_ratio", "forge/converged", "forge/calibration_error",
    "forge/levels_passed", "forge/accuracy",
}  # fmt: skip


def _run(folders, place, config=CONFIG, context=None, model="model"):
    context = context or MemoryContext(place, seed=3)
    inputs = {
        "model": context.adopt("checkpoint", folders / model),
        "corpus": context.adopt("corpus", folders / "corpus"),
    }
    return one(load("forge").run(config, inputs, context), "model"), context


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    return _run(folders, tmp_path_factory.mktemp("run"))


def test_keeps_the_contract(finished):
    artifact, context = finished
    phase = load("forge")
    assert isinstance(phase, Phase)
    assert phase.consumes == {"model": "checkpoint", "corpus": "corpus"}
    assert phase.produces == {"model": "checkpoint"}
    assert {"config.json", "model.safetensors", "forge.json", "ternary.json", "packed.safetensors"} <= set(
        artifact.files
    )
    assert set(context.measured) >= GATES
    facts = json.loads((context.path(artifact) / "forge.json").read_text())
    assert facts["phase"] == "forge"


def test_what_comes_out_is_exactly_ternary_and_has_learned(finished, folders):
    artifact, context = finished
    folder = context.path(artifact)
    assert is_exactly_ternary(folder)
    assert context.measured["forge/exactly_ternary"] == 1.0
    assert context.measured["forge/special_rows_identical"] == 1.0
    plain, packed = load_model(folder)[0].state_dict(), load_packed(folder)[0].state_dict()
    assert all(torch.equal(packed[name], value) for name, value in plain.items())
    before = load_model(folders / "model")[0].state_dict()
    assert any(not torch.equal(before[name], value) for name, value in plain.items())
    assert context.measured["forge/curriculum_loss_reduction"] > 0.02
    assert 0 <= context.measured["forge/calibration_error"] <= 1


def test_curves_and_page(finished):
    _, context = finished
    logged = {name for _, metrics in context.logged for name in metrics}
    assert {
        "forge/loss", "forge/self_error", "forge/chaos", "forge/rate", "forge/gradient_share", "forge/edge",
        "forge/sensitivity", "forge/gradient_noise", "forge/answer_loss",
    } <= logged  # fmt: skip
    page = context.attachments["forge"]
    assert [row["stage"] for row in page["stages"]] == [0, 1, 2]
    assert json.dumps(page, allow_nan=False)
    assert all(metrics.get("forge/chaos", 0) <= 0.3 for _, metrics in context.logged)


def test_equal_runs_give_equal_bytes(finished, folders, tmp_path):
    again, _ = _run(folders, tmp_path)
    assert again.digest == finished[0].digest


@pytest.mark.parametrize("step", [13, 37])
def test_killed_and_resumed_gives_the_same_digest(finished, folders, tmp_path, step):
    context = FragileContext(tmp_path, seed=3)
    context.deadly_step = step
    with pytest.raises(Killed):
        _run(folders, tmp_path, context=context)
    context.deadly_step = -1
    resumed, _ = _run(folders, tmp_path, context=context)
    assert resumed.digest == finished[0].digest
    assert context.measured == finished[1].measured


def test_an_interrupt_saves_first(folders, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    context.stopping = True
    with pytest.raises(Interrupted, match="forge"):
        _run(folders, tmp_path, context=context)
    assert len(context.states) == 1


def test_a_model_that_is_not_ternary_is_refused(folders, tmp_path):
    model, tokenizer = load_model(folders / "model")
    from agent_forge.model.ternary import ternary_linears

    for layer in ternary_linears(model).values():
        layer.to_linear()
    save_model(model, tokenizer, folders / "plain", {})
    with pytest.raises(HandoffError, match="bitnet"):
        _run(folders, tmp_path, model="plain")


PRACTICE = {"seed": 0, "levels": [1], "strategies": ["decompose"]}


@pytest.fixture(scope="module")
def thinking(folders, tmp_path_factory):
    model, tokenizer = load_model(folders / "model")
    add_thought_tokens(model, tokenizer)
    folder = tmp_path_factory.mktemp("thinking")
    save_ternary(model, tokenizer, folder, select(model, tokenizer), {"practice": PRACTICE})
    return folder


@pytest.mark.parametrize("habits", [PRACTICE, None])
def test_a_model_that_thinks_goes_on_practising_thoughts_and_no_other_does(folders, thinking, tmp_path, habits):
    student, tokenizer = load_model(thinking)
    selection, frozen = thaw_student(student, tokenizer)
    corpus, context = Corpus.open(folders / "corpus"), MemoryContext(tmp_path, seed=3)
    course = make_course(
        CONFIG, context, student, tokenizer, selection, frozen, special_rows(selection), corpus, habits
    )
    batches, _ = course.practice.batches(Plan(0, 1, {"": {1: 1.0}}, {1: 0}))
    assert (DOMAIN in batches.domains) == (habits is not None)
    if habits is not None:
        shown = torch.stack([batches.batch(step)["input_ids"] for step in range(8)])
        assert (shown == thought_ids(tokenizer)[0]).sum() > 0


def test_what_was_practised_is_told_to_the_phases_after(finished, folders, thinking, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    inputs = {
        "model": context.adopt("checkpoint", thinking, practice=PRACTICE),
        "corpus": context.adopt("corpus", folders / "corpus"),
    }
    short = CONFIG.model_copy(update={"stages": 1, "stage_steps": 2, "dream_every": 0, "own_answers": 0})
    artifact = one(load("forge").run(short, inputs, context), "model")
    assert artifact.facts["practice"] == PRACTICE
    assert "practice" not in finished[0].facts
