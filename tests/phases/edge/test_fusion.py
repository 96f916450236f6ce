"""Folding gains and joining projections: the same logits, and why not where it cannot be."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear, codes_of, freeze, ternary_linears
from agent_forge.phases.edge.fusion import ProjectionPart, fold_norms, join_projections

PROBE = torch.randint(3, 300, (2, 20), generator=torch.Generator().manual_seed(2))


def cognate(seed=0, **changes):
    torch.manual_seed(seed)
    shape = {
        "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "sliding_window": 64, "zero_init_output": False,
    }  # fmt: skip
    return with_gains(CognateForCausalLM(CognateConfig(**{**shape, **changes})).eval())


@torch.no_grad()
def with_gains(model):
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
    return model


def ternary(model, layout=Layout(), bits=8):  # noqa: B008 (a frozen dataclass)
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, layout, activation_bits=bits)
    freeze(model)
    return model


@torch.no_grad()
def logits(model):
    return model(input_ids=PROBE, use_cache=False).logits


def gains(model, *names):
    return {path for path, m in model.named_modules() if path.endswith(names) and bool((m.weight == 1).all())}


def test_a_fold_on_paper():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(3, 2)
            self.norm = nn.RMSNorm(2)
            self.head = nn.Linear(2, 3, bias=False)
            self.config = type("Config", (), {"tie_word_embeddings": False})()

        def get_output_embeddings(self):
            return self.head

        def forward(self, input_ids, use_cache=False):
            return type("Output", (), {"logits": self.head(self.norm(self.embed(input_ids)))})

    model = Two().eval()
    with torch.no_grad():
        model.norm.weight.copy_(torch.tensor([2.0, 0.5]))
        model.head.weight.copy_(torch.tensor([[1.0, 4.0], [3.0, 2.0], [0.0, 6.0]]))
    found = fold_norms(model, torch.tensor([[0, 1, 2]]))
    assert found.done == {"norm": "head"}
    assert torch.equal(model.head.weight, torch.tensor([[2.0, 2.0], [6.0, 1.0], [0.0, 3.0]]))
    assert model.norm.weight.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "parts",
    [
        {"short_convolution": 3},
        {},
        {"memory": "ema", "memory_size": 8, "gate_size": 8},
        {"recursion_steps": 3, "short_convolution": 2, "value_residual": True, "num_key_value_heads": 2},
    ],
)
def test_gains_of_cognate_go_into_taps_or_matrices_and_logits_stay(parts):
    model = cognate(**parts)
    before, weights = logits(model), {n: p.clone() for n, p in model.named_parameters()}
    found = fold_norms(model, PROBE)
    assert found.difference <= 1e-4
    assert torch.allclose(logits(model), before, atol=1e-4)
    assert set(found.done) == gains(model, "attention_norm", "mlp_norm")
    assert len(found.done) == (6 if "recursion_steps" in parts else 4)
    assert not set(found.done) & set(found.skipped)
    assert "directly" in found.skipped["model.norm"]
    if "short_convolution" in parts:
        assert found.done["model.layers.0.attention_norm"] == "model.layers.0.attention_conv"
        assert torch.equal(
            weights["model.layers.0.attention.q_proj.weight"], model.model.layers[0].attention.q_proj.weight
        )
    found.undo()
    assert torch.equal(logits(model), before)


def test_what_reads_a_norm_besides_linear_layers_keeps_its_gain():
    model = cognate(memory="titans", memory_size=8, memory_heads=2, gate_size=8)
    found = fold_norms(model, PROBE)
    assert "MemoryRates" in found.skipped["model.layers.1.attention_norm"]
    assert "model.layers.0.mlp_norm" in found.done


def test_llama_folds_and_joins(make_llama):
    model = with_gains(make_llama())
    before = logits(model)
    folded, joined = fold_norms(model, PROBE), join_projections(model, PROBE)
    assert len(folded.done) == 4
    assert joined.done["model.layers.0.self_attn"].count("+") == 2
    assert joined.done["model.layers.1.mlp"] == "gate_proj + up_proj"
    assert torch.allclose(logits(model), before, atol=1e-4)
    cached = model.generate(PROBE[:1], max_new_tokens=6, do_sample=False, pad_token_id=0)
    joined.undo()
    folded.undo()
    assert torch.equal(logits(model), before)
    assert torch.equal(model.generate(PROBE[:1], max_new_tokens=6, do_sample=False, pad_token_id=0), cached)


def test_ternary_layers_stay_ternary_and_gains_stay_before_rounded_activations():
    model = ternary(cognate(short_convolution=2))
    before = logits(model)
    found = fold_norms(model, PROBE, tolerance=0.0, through_rounding=True)
    # A tolerance of nothing: each fold is tried alone, and what moves a logit at all is taken back.
    assert all("something else" in found.skipped[path] for path in found.skipped if "_conv" in path)
    found.undo()
    assert torch.equal(logits(model), before)
    plain = ternary(cognate(short_convolution=2), bits=0)
    codes = {name: codes_of(layer.weight, layer.layout)[0] for name, layer in ternary_linears(plain).items()}
    assert len(fold_norms(plain, PROBE).done) == 4
    assert all(torch.equal(codes[n], codes_of(m.weight, m.layout)[0]) for n, m in ternary_linears(plain).items())


def test_without_a_convolution_the_gains_of_a_ternary_model_stay():
    found = fold_norms(ternary(cognate()), PROBE)
    assert found.done == {}
    assert "would not stay ternary" in found.skipped["model.layers.0.mlp_norm"]


@pytest.mark.parametrize("layout", [Layout(), Layout(-1), Layout(16)])
@pytest.mark.parametrize("bits", [0, 8])
def test_joined_ternary_layers_are_ternary(layout, bits):
    model = ternary(cognate(short_convolution=2, num_key_value_heads=2), layout, bits)
    before = logits(model)
    found = join_projections(model, PROBE)
    assert found.difference <= 1e-6
    assert found.difference_rounded <= 1e-4
    assert torch.allclose(logits(model), before, atol=1e-4)
    joined = model.model.layers[0].attention
    held = [m for m in joined.modules() if isinstance(m, TernaryLinear) and m.out_features == 64]
    assert len(held) == 1
    codes_of(held[0].weight, held[0].layout)
    assert sum(isinstance(m, ProjectionPart) for m in model.modules()) == 2 * 5
    found.undo()
    assert torch.equal(logits(model), before)
    assert not any(isinstance(m, ProjectionPart) for m in model.modules())


def test_a_joined_model_decodes_the_same_tokens_with_its_cache():
    plain, joined = (ternary(cognate(short_convolution=2, recursion_steps=2)) for _ in range(2))
    found = join_projections(joined, PROBE)
    # queries of the shared block come from another tensor than its keys and values
    assert found.done["recursion.attention"] == "k_proj + v_proj"
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(plain.generate(PROBE[:1], **options), joined.generate(PROBE[:1], **options))


def test_layers_that_are_quantized_differently_are_not_joined():
    model = ternary(cognate())
    attention = model.model.layers[0].attention
    attention.k_proj.to_linear()
    found = join_projections(model, PROBE)
    assert any("different kinds" in reason for reason in found.skipped.values())
    assert "model.layers.0.attention" not in found.done
    assert "model.layers.1.attention" in found.done


@given(seed=st.integers(0, 1000), length=st.integers(1, 9))
@settings(max_examples=10, deadline=None)
def test_any_text_gets_the_same_logits(seed, length):
    model = cognate(seed=1, short_convolution=2)
    text = torch.randint(0, 300, (1, length), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        before = model(input_ids=text, use_cache=False).logits
        fold_norms(model, PROBE)
        join_projections(model, PROBE)
        assert torch.allclose(model(input_ids=text, use_cache=False).logits, before, atol=1e-4)
