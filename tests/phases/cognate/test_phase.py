"""The contract of the phase, resume and determinism: read this to see what the phase gives."""

import json

import pytest

from agent_forge.contract import Phase, digests, many, one
from agent_forge.errors import ConfigError, Interrupted
from agent_forge.phases.cognate.phase import PHASE
from agent_forge.phases.cognate.training import TrainingRun

EVERYTHING = {
    "memory": "ema", "memory_size": 8, "gate_size": 8, "recursion_steps": 2, "act": True, "qk_norm": False,
}  # fmt: skip


def all_digests(artifacts):
    return [one(artifacts, "trunk").digest, *digests(many(artifacts, "specialists"))]


def test_contract(make_context, make_config):
    context, inputs = make_context()
    artifacts = PHASE.run(make_config(), inputs, context)
    assert isinstance(PHASE, Phase)
    assert set(artifacts) == set(PHASE.produces)
    specialists = many(artifacts, "specialists")
    assert [a.facts["specialization"] for a in specialists] == [
        "reasoning", "memory_integration", "adaptive_computation",
    ]  # fmt: skip
    assert len(set(all_digests(artifacts))) == 4
    for artifact in (*specialists, one(artifacts, "trunk")):
        assert {"final_loss", "seed", "param_count", "tokens_seen", "data_digest"} <= set(artifact.facts)
        model, tokenizer = context.load_model(artifact)
        assert sum(p.numel() for p in model.parameters()) == artifact.facts["param_count"]
        assert model.config.vocab_size == len(tokenizer) <= 300
        facts = json.loads((context.path(artifact) / "forge.json").read_text())
        assert facts["data_digest"] == inputs["corpus"].digest
    assert {
        f"cognate/{name}"
        for name in ("specialization_score", "parameters", "merge_preview", "perplexity", "bits_per_byte/trunk")
    } <= set(context.measured)
    names = {name for _, metrics in context.logged for name in metrics}
    assert {"loss/step_0", "valid/bits_per_byte", "valid/perplexity", "grad/norm", "attn/entropy_fraction"} <= names


def test_metrics_of_every_part_have_the_names_of_the_specification(make_context, make_config):
    context, inputs = make_context()
    weights = {"coherence_weight": 0.2, "diversity_weight": 0.1, "segment_tokens": 8, "attention_entropy_weight": 0.01}
    PHASE.run(make_config(EVERYTHING, grokfast_lambda=0.1, qk_clip_every=1, **weights), inputs, context)
    names = {name for _, metrics in context.logged for name in metrics}
    assert {
        "loss/step_0", "loss/step_1", "act/avg_steps", "gate/m_usage", "gate/entropy", "optim/qk_clip_count",
        "loss/coherence", "loss/diversity", "loss/halting", "grokfast/ratio", "attn/rope_norm", "attn/sinks",
    } <= names  # fmt: skip


@pytest.mark.parametrize("shape", [{}, EVERYTHING])
def test_same_seed_same_bytes_and_a_killed_run_ends_the_same(make_context, make_config, monkeypatch, shape):
    config = make_config(shape, steps=19, grokfast_lambda=0.2 if shape else 0.0)
    context, inputs = make_context("unbroken")
    expected = all_digests(PHASE.run(config, inputs, context))
    plain = TrainingRun.advance
    calls = 0

    def killed(run):
        nonlocal calls
        calls += 1
        # In the trunk between two states, then in a branch.
        if calls in (7, 18):
            raise KeyboardInterrupt
        return plain(run)

    context, inputs = make_context("broken")
    monkeypatch.setattr(TrainingRun, "advance", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            PHASE.run(config, inputs, context)
    assert context.states
    assert all_digests(PHASE.run(config, inputs, context)) == expected


def test_another_seed_gives_other_models(make_context, make_config):
    found = set()
    for seed in (0, 1):
        context, inputs = make_context(f"seed{seed}", seed=seed)
        found |= set(all_digests(PHASE.run(make_config(steps=4), inputs, context)))
    assert len(found) == 8


def test_stopping_saves_first(make_context, make_config):
    context, inputs = make_context()
    context.stopping = True
    with pytest.raises(Interrupted, match="trunk"):
        PHASE.run(make_config(), inputs, context)
    assert context.states[-1][1]["stage"] == "trunk"


def test_branches_from_scratch_share_nothing_with_the_trunk(make_context, make_config):
    context, inputs = make_context()
    PHASE.run(make_config(specialize_from="scratch", steps=4), inputs, context)
    finished = context.states[-1][1]["finished"]
    assert finished["reasoning"]["tokens_seen"] > finished["trunk"]["tokens_seen"]


def test_a_wrong_parameter_budget_is_refused_before_training(make_context, make_config):
    context, inputs = make_context()
    with pytest.raises(ConfigError, match="25"):
        PHASE.run(make_config(parameters=25_000_000), inputs, context)
    assert context.logged == []
