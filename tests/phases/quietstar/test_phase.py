"""The phase on a small model: contract, figures, determinism, kill and resume, and a foreign architecture."""

import json

import pytest
import torch
from tests.phases.fragile import FragileContext, Killed
from tests.phases.quietstar.tiny import QUICK, run, write_inputs
from transformers import AutoModelForCausalLM

from agent_forge.contract import Phase
from agent_forge.data.tokenizer import has_thoughts, thought_ids
from agent_forge.errors import Interrupted
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary_selection import select
from agent_forge.phases import load
from agent_forge.pipeline.handoffs import check_handoffs
from agent_forge.pipeline.memory_context import MemoryContext

GATES = {
    "quietstar/gain_over_off", "quietstar/sure_gain_over_off", "quietstar/sure_gain_over_shuffled",
    "quietstar/sure_gain_over_filler", "quietstar/coherence", "quietstar/valid_thoughts_fraction",
    "quietstar/bits_per_byte_ratio", "quietstar/policy_failed",
    "quietstar/hardest_tokens_gain_over_off", "quietstar/sure_hardest_tokens_gain_over_off",
    "quietstar/hardest_tokens_gain_over_filler", "quietstar/sure_hardest_tokens_gain_over_filler",
}  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return write_inputs(tmp_path_factory.mktemp("quietstar"))


@pytest.fixture(scope="module")
def finished(folders, tmp_path_factory):
    return run(folders, tmp_path_factory.mktemp("run"))


def test_keeps_the_contract(finished):
    artifact, context = finished
    phase = load("quietstar")
    assert isinstance(phase, Phase)
    assert phase.consumes == {"model": "checkpoint", "corpus": "corpus"}
    assert phase.produces == {"model": "checkpoint"}
    assert artifact.kind == "checkpoint"
    assert {"config.json", "model.safetensors", "forge.json", "mixing_head.safetensors"} <= set(artifact.files)
    assert set(context.measured) >= GATES
    check_handoffs(("thought_tokens",), {"model": artifact}, context)


def test_the_resize_is_recorded_and_plain_transformers_loads_it(finished):
    artifact, context = finished
    facts = json.loads((context.path(artifact) / "forge.json").read_text())["thought_tokens"]
    model, tokenizer = load_model(context.path(artifact))
    assert has_thoughts(tokenizer)
    assert (facts["opening"], facts["closing"]) == thought_ids(tokenizer)
    assert facts["tokens_after"] == facts["tokens_before"] + 2 == len(tokenizer)
    assert AutoModelForCausalLM.from_pretrained(context.path(artifact)).config.vocab_size == facts["rows_after"]
    assert set(thought_ids(tokenizer)) <= set(select(model, tokenizer).special_rows)


def test_curves_and_report_page(finished):
    _, context = finished
    logged = {name for _, metrics in context.logged for name in metrics}
    assert {"quietstar/cross_entropy", "quietstar/hold_divergence"} <= logged
    page = context.attachments["quietstar"]
    assert page["parallel"] is True
    assert set(page["by_kind"]) == set(page["nats_by_kind"]) == {"thoughts/decompose", "thoughts/weigh"}
    assert len(page["samples"]) == 6
    assert json.dumps(page)


def test_equal_runs_give_equal_bytes(finished, folders, tmp_path):
    again, context = run(folders, tmp_path)
    assert again.digest == finished[0].digest
    assert context.measured == finished[1].measured


@pytest.mark.parametrize("step", [5, 9])
def test_killed_and_resumed_gives_the_same_digest(finished, folders, tmp_path, step):
    """In the practice, and in Quiet-STaR."""
    context = FragileContext(tmp_path, seed=3)
    context.deadly_step = step
    with pytest.raises(Killed):
        run(folders, tmp_path, context=context)
    context.deadly_step = -1
    resumed, _ = run(folders, tmp_path, context=context)
    assert resumed.digest == finished[0].digest
    assert context.measured == finished[1].measured


def test_an_interrupt_saves_first(folders, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    context.stopping = True
    with pytest.raises(Interrupted, match="quietstar"):
        run(folders, tmp_path, context=context)
    assert len(context.states) == 1


def test_a_tiny_llama_learns_by_the_same_code(tmp_path_factory):
    folder = write_inputs(tmp_path_factory.mktemp("llama"), "llama")
    artifact, context = run(folder, folder / "run", QUICK.model_copy(update={"habit_steps": 2, "quiet_steps": 2}))
    model, tokenizer = load_model(context.path(artifact))
    assert has_thoughts(tokenizer)
    assert type(model).__name__ == "LlamaForCausalLM"
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert set(context.measured) >= GATES
