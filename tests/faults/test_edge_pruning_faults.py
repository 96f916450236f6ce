"""Failures of pruning, fusion and targets, injected."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from transformers import GemmaConfig, GemmaForCausalLM

from agent_forge.errors import PhaseFailed
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear, freeze
from agent_forge.phases.edge.cuts import CannotCut, Cut, anatomy, apply_cut
from agent_forge.phases.edge.fusion import fold_norms
from agent_forge.phases.edge.importance import first_order
from agent_forge.phases.edge.pruning import Limits, prune
from agent_forge.phases.edge.speed import measure
from agent_forge.phases.edge.targets import TARGETS, Speed, fit

IDS = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(1))


def ternary_cognate(group_size=0, bits=8):
    torch.manual_seed(0)
    model = CognateForCausalLM(
        CognateConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            short_convolution=2,
            zero_init_output=False,
        )
    ).eval()
    with torch.no_grad():
        for module in model.modules():
            if "norm" in type(module).__name__.lower():
                module.weight.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(3))
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout(group_size), activation_bits=bits)
    freeze(model)
    return model


def same(model, other):
    pairs = zip(model.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs) and model.config.to_dict() == other.config.to_dict()


def test_edge_1_a_cut_that_costs_a_tool_is_undone_bit_for_bit():
    """The tool sits in one channel, which the second cut would take: answers are right as long as it is there."""
    model = ternary_cognate()
    linear = model.model.layers[1].mlp.down_proj
    order = first_order(model, [{"input_ids": IDS}], {"down": linear}, []).inputs["down"].argsort()
    victim = linear.weight[:, order[5]].clone()

    def judge(model):
        columns = model.model.layers[1].mlp.down_proj.weight
        holds = bool((columns == victim[:, None]).all(0).any())
        return {"bits_per_byte": 1.0, "tools": [holds or n >= 10 for n in range(200)], "persona": [True] * 200}

    options = {"limits": Limits(bits_ratio=10.0), "multiple": 4, "max_judgements": 12, "kinds": ["channels"]}
    found = prune(model, [{"input_ids": IDS}], judge, **options)
    assert all(judge(model)["tools"])
    undone = [trial for trial in found.trials if trial["undone"]]
    assert undone
    assert "tools 1.000 → 0.950" in undone[0]["undone"]
    assert "tools" in found.skipped["channels"]
    # The cuts that stayed, made on a fresh model, give the same bits: what was undone left no trace.
    again = ternary_cognate()
    for cut in found.cuts:
        apply_cut(again, cut)
    assert same(model, again)


def test_edge_2_a_cut_that_would_break_scales_or_shapes_is_refused():
    grouped = ternary_cognate(group_size=8)
    with pytest.raises(CannotCut, match="groups of 8 columns"):
        apply_cut(grouped, Cut("channels", dict.fromkeys(anatomy(grouped).places["channels"], (1,))))
    uneven = ternary_cognate()
    paths = list(anatomy(uneven).places["channels"])
    with pytest.raises(CannotCut, match="evenly"):
        apply_cut(uneven, Cut("channels", {paths[0]: (1,), paths[1]: (1, 2)}))
    assert same(grouped, ternary_cognate(group_size=8))
    assert same(uneven, ternary_cognate())
    found = prune(grouped, [{"input_ids": IDS}], lambda _: {"bits_per_byte": 1.0}, limits=Limits(bits_ratio=10.0))
    assert "groups of 8 columns" in found.skipped["channels"]


def test_edge_3_a_fold_that_changes_logits_is_taken_back():
    # Gemma's gain is 1 + weight: a weight of one would double everything.
    torch.manual_seed(0)
    gemma = GemmaForCausalLM(
        GemmaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=16,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).eval()
    with torch.no_grad():
        for layer in gemma.model.layers:
            layer.input_layernorm.weight.uniform_(0.5, 1.5)
            layer.post_attention_layernorm.weight.uniform_(0.5, 1.5)
        before = gemma(input_ids=IDS).logits
        found = fold_norms(gemma, IDS)
        assert found.done == {}
        assert "logits would change by" in found.skipped["model.layers.0.input_layernorm"]
        assert torch.equal(gemma(input_ids=IDS).logits, before)


def test_edge_4_a_target_without_figures_is_missed_or_refused():
    speed = Speed("torch", "cpu", "x86_64", 2, 0.02, 200.0, 10**8, 10**6)
    broken = fit(TARGETS["cpu-x86"], [replace(speed, first_token_seconds=math.nan, tokens_per_second=math.nan)])
    assert not broken.met
    assert [verdict.met for verdict in broken.verdicts] == [False, False, True, True]
    for name in ("cpu-arm64", "gpu-6gb", "browser"):
        with pytest.raises(ValueError, match="no estimate"):
            fit(TARGETS[name], [speed])
    with pytest.raises(ValueError, match="nothing was measured"):
        fit(TARGETS["cpu-x86"], [])


def test_edge_5_a_process_that_fails_is_told_with_its_last_line(tmp_path):
    with pytest.raises(PhaseFailed, match="no checkpoint: it has no config.json") as caught:
        measure(tmp_path, "torch", threads=1, new_tokens=1, repeats=1)
    assert "measuring torch" in str(caught.value)
