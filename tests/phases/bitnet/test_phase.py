"""The phase on a small trained model: contract, figures, determinism, kill and resume, packed file."""

import json

import pytest
import torch
from tests.phases.fragile import FragileContext, Killed
from transformers import AutoModelForCausalLM

from agent_forge.contract import Phase, one
from agent_forge.data.corpora import Corpus
from agent_forge.data.practice import DOMAIN
from agent_forge.data.tokenizer import thought_ids
from agent_forge.errors import Interrupted
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.model.ternary import is_exactly_ternary, ternary_linears
from agent_forge.model.ternary_checkpoint import load_packed
from agent_forge.phases import load
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.phase import training_batches
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens
from agent_forge.pipeline.memory_context import MemoryContext

CONFIG = BitnetConfig(
    sequence_length=32, batch_size=8, calibration_samples=16, stages=2, stage_steps=6, recovery_steps=10,
    checkpoint_every=4, validation_documents=4, test_documents=6, precision="fp32", stage_bound=50.0,
)  # fmt: skip
GATES = {
    "bitnet/retention_fraction", "bitnet/perplexity_ratio", "bitnet/bits_per_byte_ratio", "bitnet/compression_ratio",
    "bitnet/exactly_ternary", "bitnet/round_trip_bits_per_byte_gap", "bitnet/special_rows_identical",
    "bitnet/layers_kept_higher",
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(trained_cognate):
    memory = {"memory": "ema", "memory_size": 32, "gate_size": 16, "sliding_window": 64}
    return trained_cognate(60, intermediate_size=128, num_hidden_layers=2, **memory)


def _run(folders, place, config=CONFIG, context=None):
    context = context or MemoryContext(place, seed=3)
    inputs = {
        "model": context.adopt("checkpoint", folders / "model"),
        "corpus": context.adopt("corpus", folders / "corpus"),
    }
    return one(load("bitnet").run(config, inputs, context), "model"), context


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    return _run(folders, tmp_path_factory.mktemp("run"))


def test_keeps_the_contract(finished):
    artifact, context = finished
    phase = load("bitnet")
    assert isinstance(phase, Phase)
    assert phase.consumes == {"model": "checkpoint", "corpus": "corpus"}
    assert artifact.kind == "checkpoint"
    assert {"config.json", "model.safetensors", "forge.json", "ternary.json", "packed.safetensors"} <= set(
        artifact.files
    )
    assert set(context.measured) >= GATES
    facts = json.loads((context.path(artifact) / "forge.json").read_text())
    assert facts["phase"] == "bitnet"
    assert facts["seed"] == 3


def test_the_figures_hold(finished):
    artifact, context = finished
    measured = context.measured
    folder = context.path(artifact)
    assert measured["bitnet/exactly_ternary"] == 1.0
    assert is_exactly_ternary(folder)
    assert measured["bitnet/special_rows_identical"] == 1.0
    assert measured["bitnet/layers_kept_higher"] == 0.0
    assert measured["bitnet/round_trip_bits_per_byte_gap"] <= 2e-3
    plain, packed = artifact.files["model.safetensors"][1], artifact.files["packed.safetensors"][1]
    assert measured["bitnet/compression_ratio"] == pytest.approx(plain / packed)
    assert 0 < measured["bitnet/retention_fraction"] <= 1.05
    assert measured["bitnet/perplexity_ratio"] > 0.95
    assert context.warnings == []


def test_curves_and_report_page(finished):
    _, context = finished
    logged = {name for _, metrics in context.logged for name in metrics}
    assert {"bitnet/loss", "bitnet/divergence", "bitnet/gradient_share", "bitnet/validation_ratio"} <= logged
    page = context.attachments["bitnet"]
    assert [attempt["kept"] for attempt in page["stages"]] == [True, True]
    assert {layer["precision"] for layer in page["layers"].values()} == {"ternary"}
    assert all(layer["input_absmax"] > 0 for layer in page["layers"].values())
    assert json.dumps(page)


def test_special_rows_and_tables_of_the_file_are_those_of_the_input(finished, folders):
    artifact, context = finished
    before = load_model(folders / "model")[0].get_input_embeddings().weight
    after = load_model(context.path(artifact))[0].get_input_embeddings().weight
    assert torch.equal(before[:5], after[:5])
    assert not torch.equal(before, after)


def test_packed_plain_and_forge_loaders_agree(finished):
    artifact, context = finished
    folder = context.path(artifact)
    packed, _ = load_packed(folder)
    loaded, _ = load_model(folder)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        results = [model(ids, use_cache=False).logits for model in (packed, loaded, plain)]
    assert torch.equal(results[0], results[1])
    assert len(ternary_linears(loaded)) == len(ternary_linears(packed)) > 0
    # A plain loader leaves activations in full precision: near, not equal.
    assert 0 < (results[2] - results[0]).abs().max() < 0.2 * results[0].abs().max()


def test_equal_runs_give_equal_bytes(finished, folders, tmp_path):
    again, _ = _run(folders, tmp_path)
    assert again.digest == finished[0].digest


@pytest.mark.parametrize("step", [9, 19])
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
    with pytest.raises(Interrupted, match="bitnet"):
        _run(folders, tmp_path, context=context)
    assert len(context.states) == 1


PRACTICE = {"seed": 0, "levels": [1], "strategies": ["decompose"]}


@pytest.fixture(scope="module")
def thinking(folders, tmp_path_factory):
    model, tokenizer = load_model(folders / "model")
    add_thought_tokens(model, tokenizer)
    folder = tmp_path_factory.mktemp("thinking")
    save_model(model, tokenizer, folder, {"practice": PRACTICE})
    return folder


def test_a_model_that_thinks_goes_on_practising_thoughts_and_no_other_does(folders, thinking):
    corpus, (_, tokenizer) = Corpus.open(folders / "corpus"), load_model(thinking)
    batches = training_batches(CONFIG, corpus, tokenizer, PRACTICE, 3)
    assert DOMAIN in batches.domains
    shown = torch.stack([batches.batch(step)["input_ids"] for step in range(8)])
    assert (shown == thought_ids(tokenizer)[0]).sum() > 0
    assert DOMAIN not in training_batches(CONFIG, corpus, tokenizer, None, 3).domains
    plain = load_model(folders / "model")[1]
    assert DOMAIN not in training_batches(CONFIG, corpus, plain, PRACTICE, 3).domains


def test_what_was_practised_is_told_to_the_phases_after(finished, folders, thinking, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    inputs = {
        "model": context.adopt("checkpoint", thinking, practice=PRACTICE),
        "corpus": context.adopt("corpus", folders / "corpus"),
    }
    short = CONFIG.model_copy(update={"stage_steps": 1, "recovery_steps": 1})
    artifact = one(load("bitnet").run(short, inputs, context), "model")
    assert artifact.facts["practice"] == PRACTICE
    assert json.loads((context.path(artifact) / "forge.json").read_text())["practice"] == PRACTICE
    assert "practice" not in finished[0].facts
