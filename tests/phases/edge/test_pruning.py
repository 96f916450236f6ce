"""Cuts, the importance that orders them, and the search that keeps what a judge allows."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import prune_linear_layer

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear, freeze, is_exactly_ternary, ternary_linears
from agent_forge.model.ternary_checkpoint import load_packed, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.cuts import CannotCut, Cut, anatomy, apply_cut, removable_layers
from agent_forge.phases.edge.importance import token_loss
from agent_forge.phases.edge.pruning import Limits, Pruned, plan, prune, too_few, too_much

SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "sliding_window": 64, "zero_init_output": False, "short_convolution": 2,
}  # fmt: skip


def cognate(**changes):
    torch.manual_seed(0)
    return CognateForCausalLM(CognateConfig(**{**SHAPE, **changes})).eval()


def ternary_cognate(group_size=0, levels=3, **changes):
    model = cognate(**changes)
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout(group_size, levels))
    freeze(model)
    return model


def batches(count=2, rows=3, length=12):
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 300, (rows, length), generator=generator)} for _ in range(count)]


@torch.no_grad()
def logits(model):
    return model(input_ids=batches()[0]["input_ids"], use_cache=False).logits


def some_cut(model, kind, count=1):
    where = anatomy(model)
    if kind == "layers":
        return Cut(kind, {where.layers_path: (1,)})
    return Cut(kind, {path: tuple(range(1, 1 + count)) for path in where.places[kind]})


def silence(model, cut):
    """The same model with the units still there, but saying nothing."""
    where = anatomy(model)
    with torch.no_grad():
        if cut.kind == "layers":
            (number,) = cut.units[where.layers_path]
            layer = model.get_submodule(f"{where.layers_path}.{number}")
            for path, module in layer.named_modules():
                if path.endswith(("o_proj", "down_proj")):
                    module.weight.zero_()
            return
        for path, place in where.places[cut.kind].items():
            linear, width = place.columns
            for unit in cut.units[path]:
                linear.weight[:, unit * width : (unit + 1) * width] = 0


@pytest.mark.parametrize(
    ("which", "kind"),
    [("cognate", "channels"), ("cognate", "heads"), ("cognate", "layers"), ("llama", "channels"), ("llama", "layers")],
)
def test_a_cut_model_says_what_the_whole_one_says_with_these_units_silent(which, kind, make_llama):
    def make():
        return cognate() if which == "cognate" else make_llama()

    model, silenced = make(), make()
    cut = some_cut(model, kind, 2 if kind == "channels" else 1)
    before = logits(model)
    back = apply_cut(model, cut)
    silence(silenced, cut)
    assert torch.allclose(logits(model), logits(silenced), atol=1e-5)
    assert sum(p.numel() for p in model.parameters()) < sum(p.numel() for p in silenced.parameters())
    back()
    assert torch.equal(logits(model), before)


def llama_with_groups():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def test_query_heads_of_a_group_go_with_their_key_and_a_fresh_model_is_built_from_the_configuration(tmp_path):
    model, silenced = llama_with_groups(), llama_with_groups()
    cut = some_cut(model, "heads")
    apply_cut(model, cut)
    silence(silenced, cut)
    assert torch.allclose(logits(model), logits(silenced), atol=1e-5)
    assert (model.config.num_attention_heads, model.config.num_key_value_heads, model.config.head_dim) == (2, 1, 8)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(model))
    assert AutoConfig.from_pretrained(tmp_path).head_dim == 8


def test_rows_and_columns_are_those_that_transformers_would_keep():
    model = llama_with_groups()
    attention = copy.deepcopy(model.model.layers[0].self_attn)
    apply_cut(model, Cut("heads", dict.fromkeys(anatomy(model).places["heads"], (0,))))
    kept = torch.arange(16, 32)
    ours = model.model.layers[0].self_attn
    for name, dim in (("q_proj", 0), ("o_proj", 1)):
        reference = prune_linear_layer(getattr(attention, name), kept, dim=dim)
        assert torch.equal(getattr(ours, name).weight, reference.weight)
        assert torch.equal(getattr(ours, name).bias, reference.bias)
        assert (reference.in_features, reference.out_features) == (
            getattr(ours, name).in_features, getattr(ours, name).out_features,
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["channels", "heads", "layers"])
def test_a_cut_ternary_model_keeps_its_scales_and_comes_back_from_both_of_its_files(kind, tmp_path):
    model = ternary_cognate()
    tokenizer = train_tokenizer(["Ann has 3 red apples and eats 2 of them."] * 4, 280)
    scales = {name: layer.weight.abs().max() for name, layer in ternary_linears(model).items()}
    apply_cut(model, some_cut(model, kind))
    if kind != "layers":
        for name, layer in ternary_linears(model).items():
            assert torch.equal(layer.weight.abs().max(), scales[name])
    save_ternary(model, tokenizer, tmp_path, select(model, tokenizer), {})
    assert is_exactly_ternary(tmp_path)
    for again in (load_model(tmp_path)[0], load_packed(tmp_path)[0]):
        assert torch.equal(logits(again), logits(model))


def test_recursion_memory_and_cache_still_work_after_every_kind_of_cut():
    model = cognate(recursion_steps=2, memory="titans", memory_size=16, memory_heads=2, gate_size=8, act=True)
    for kind in ("channels", "recursion_channels", "heads", "layers"):
        apply_cut(model, some_cut(model, kind))
    assert model.recursion.slot == model.config.num_hidden_layers == 2
    ids = batches()[0]["input_ids"]
    whole = model(input_ids=ids, use_cache=False, steps=2).logits
    cache, parts = None, []
    for place in range(ids.shape[1]):
        out = model(
            input_ids=ids[:, place : place + 1], past_key_values=cache or model.make_cache(), use_cache=True, steps=2
        )
        cache, parts = out.past_key_values, [*parts, out.logits]
    assert torch.isfinite(whole).all()
    assert len(cache.layers) == 3
    fresh = CognateForCausalLM(model.config)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(input_ids=ids, use_cache=False, steps=2).logits, whole)


@pytest.mark.parametrize(
    ("shape", "kind", "reason"),
    [
        ({"group_size": 8}, "channels", "groups of 8 columns"),
        ({"levels": 15, "group_size": -1}, "channels", "no longer show its scale"),
    ],
)
def test_scales_that_a_cut_would_break_are_refused_and_nothing_changes(shape, kind, reason):
    model = ternary_cognate(**shape)
    before = logits(model)
    wide = {path: tuple(range(40)) for path in anatomy(model).places[kind]}
    with pytest.raises(CannotCut, match=reason):
        apply_cut(model, Cut(kind, wide))
    assert torch.equal(logits(model), before)
    assert model.config.intermediate_size == SHAPE["intermediate_size"]


def test_a_layer_that_still_trains_is_refused():
    model = cognate()
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout())
    with pytest.raises(CannotCut, match="freeze it first"):
        apply_cut(model, some_cut(model, "channels"))


def test_what_a_configuration_cannot_say_is_refused_with_the_reason(make_llama):
    model = cognate()
    with pytest.raises(CannotCut, match="evenly"):
        apply_cut(model, Cut("channels", {next(iter(anatomy(model).places["channels"])): (1,)}))
    with pytest.raises(CannotCut, match="cannot go"):
        apply_cut(model, Cut("heads", dict.fromkeys(anatomy(model).places["heads"], (0, 1))))
    gpt = gpt2()
    with pytest.raises(CannotCut, match="no module of this model"):
        apply_cut(gpt, Cut("channels", {}))
    with pytest.raises(CannotCut, match="cannot go"):
        apply_cut(make_llama(), Cut("heads", dict.fromkeys(anatomy(make_llama()).places["heads"], (0,))))


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2)).eval()


def test_layers_that_others_depend_on_stay():
    assert removable_layers(cognate(value_residual=True), anatomy(cognate()))[0] == [1, 2]
    spaced = cognate(memory="ema", memory_size=8, memory_every=2)
    allowed, reason = removable_layers(spaced, anatomy(spaced))
    assert allowed == [0]
    assert "counted from the last" in reason
    assert removable_layers(cognate(num_hidden_layers=1), anatomy(cognate(num_hidden_layers=1)))[0] == []


@given(st.sets(st.integers(0, 47), min_size=1, max_size=47))
@settings(max_examples=15, deadline=None)
def test_any_channels_can_go_and_come_back(units):
    model, silenced = cognate(num_hidden_layers=1), cognate(num_hidden_layers=1)
    before = logits(model)
    cut = Cut("channels", dict.fromkeys(anatomy(model).places["channels"], tuple(sorted(units))))
    back = apply_cut(model, cut)
    silence(silenced, cut)
    assert model.config.intermediate_size == 48 - len(units)
    assert torch.allclose(logits(model), logits(silenced), atol=1e-5)
    back()
    assert torch.equal(logits(model), before)
    assert Cut.from_json(cut.to_json()) == cut


@torch.no_grad()
def bits_of(model):
    """A judge that looks at text only, as bits: the answers stay right."""
    loss = sum(float(token_loss(model, batch)) for batch in batches())
    return {"bits_per_byte": loss, "tools": answers(1.0)}


def answers(share, count=200):
    """So many answers, the first of them right."""
    return [number < round(share * count) for number in range(count)]


def test_pruning_stays_within_the_limit_and_says_why_it_stopped():
    model = cognate()
    before = bits_of(model)["bits_per_byte"]
    found = prune(model, batches(), bits_of, limits=Limits(bits_ratio=1.01), multiple=4, max_judgements=6)
    assert found.cuts
    assert found.parameters < found.parameters_before
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert bits_of(model)["bits_per_byte"] <= 1.01 * before
    assert found.measured["bits_per_byte"] == pytest.approx(bits_of(model)["bits_per_byte"])
    assert set(found.skipped) == {"channels", "recursion_channels", "heads", "layers"}
    assert all(found.skipped.values())
    assert Pruned.from_json(found.to_json()) == found


def test_a_judge_that_allows_nothing_leaves_the_model_as_it_was():
    model = cognate()
    before = logits(model)
    right = iter([1.0, *[0.97] * 20])
    found = prune(model, batches(), lambda _: {"bits_per_byte": 1.0, "tools": answers(next(right))}, multiple=4)
    assert found.cuts == []
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == cognate().config.to_dict()
    assert all("tools 1.000 → 0.970" in trial["undone"] for trial in found.trials)


def test_bisection_finds_the_last_cut_that_is_allowed():
    """Tools work as long as the SwiGLU is at least 40 wide; heads and layers are not asked about."""
    model = cognate()

    def judge(model):
        return {"bits_per_byte": 1.0, "tools": answers(float(model.config.intermediate_size >= 40))}

    found = prune(
        model, batches(), judge, kinds=["channels"], multiple=4, limits=Limits(bits_ratio=2.0), max_judgements=9
    )
    assert model.config.intermediate_size == 40
    assert len(found.cuts) == 2
    assert "tools" in found.skipped["channels"]
    assert len(found.trials) <= 5


def test_a_broken_run_goes_on_to_the_same_model():
    def judge(model):
        return {"bits_per_byte": 1.0, "tools": answers(float(model.config.intermediate_size >= 36))}

    options = {"multiple": 4, "limits": Limits(bits_ratio=1.5), "max_judgements": 8}
    unbroken = cognate()
    states = []
    whole = prune(unbroken, batches(), judge, keep=lambda state: states.append(copy.deepcopy(state)), **options)
    assert len(states) == len(whole.trials) > 2
    for state in states[:-1]:
        resumed = cognate()
        found = prune(resumed, batches(), judge, state=copy.deepcopy(state), **options)
        assert found == whole
        assert all(
            torch.equal(a, b)
            for a, b in zip(resumed.state_dict().values(), unbroken.state_dict().values(), strict=True)
        )


def test_a_plan_leaves_the_model_as_it_was_and_names_what_ends_it():
    model, skipped = cognate(), {}
    before, config = logits(model), model.config.to_dict()
    row = plan(model, batches(), ["channels", "heads", "layers"], 100.0, 0.04, 8, skipped)
    assert {cut.kind for cut in row} == {"channels", "heads", "layers"}
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == config
    for cut in row:
        apply_cut(model, cut)
    assert (model.config.intermediate_size, model.config.num_key_value_heads, model.config.num_hidden_layers) == (
        8,
        1,
        1,
    )


def test_too_much_is_measured_and_not_a_number_is_too_much():
    before = {"bits_per_byte": 1.0, "tools": answers(0.9, 600), "persona": answers(1.0)}
    assert too_much(before, {**before, "bits_per_byte": 1.05, "tools": answers(0.895, 600)}, Limits()) == ""
    assert "bits_per_byte" in too_much(before, {**before, "bits_per_byte": 1.051}, Limits())
    assert "bits_per_byte" in too_much(before, {**before, "bits_per_byte": float("nan")}, Limits())
    assert "bits_per_byte" in too_much(before, {name: before[name] for name in ("tools", "persona")}, Limits())
    assert "persona 1.000 → 0.970" in too_much(before, {**before, "persona": answers(0.97)}, Limits())
    assert "tools was not asked again" in too_much(before, {"bits_per_byte": 1.0, "persona": answers(1.0)}, Limits())
    assert "tools was not asked again" in too_much(before, {**before, "tools": answers(0.9, 599)}, Limits())


def test_a_loss_that_few_questions_cannot_tell_from_none_is_too_much():
    """One answer of 150 is 0.7 points lost, and as much as 2.9; of 600 it is 0.2, and as much as 0.8."""
    for count, allowed in ((150, False), (600, True)):
        before = {"tools": answers(1.0, count)}
        reason = too_much(before, {"tools": answers(1 - 1 / count, count)}, Limits())
        assert (reason == "") is allowed
    assert "as much as 2.9 points" in too_much(
        {"tools": answers(1.0, 150)}, {"tools": answers(149 / 150, 150)}, Limits()
    )


def test_where_nothing_could_be_shown_nothing_is_cut_or_asked_again():
    asked = []

    def judge(_):
        asked.append(1)
        return {"bits_per_byte": 1.0, "tools": answers(1.0, 100)}

    model = cognate()
    before = logits(model)
    found = prune(model, batches(), judge, multiple=4)
    assert (found.cuts, found.trials, len(asked)) == ([], [], 1)
    assert torch.equal(logits(model), before)
    assert "100 questions about tools cannot show a loss below 2 points; 133 could" in found.skipped["channels"]
    assert too_few({"tools": answers(1.0, 133)}, Limits()) == ""
    assert too_few({"tools": answers(1.0, 132)}, Limits()) != ""


def test_pruning_refuses_what_it_cannot_use():
    with pytest.raises(ValueError, match="unknown kinds"):
        prune(cognate(), batches(), bits_of, kinds=["neurons"])
    with pytest.raises(ValueError, match="0 batches"):
        prune(cognate(), [], bits_of)
    with pytest.raises(ValueError, match="no figures"):
        prune(cognate(), batches(), lambda _: {})


def test_an_architecture_without_such_parts_is_left_alone_with_reasons():
    model = gpt2()
    found = prune(model, batches(), lambda _: {"bits_per_byte": 1.0}, limits=Limits(bits_ratio=1.0001))
    assert found.parameters == found.parameters_before
    assert "gate, up and down" in found.skipped["channels"]
    assert "query, key, value" in found.skipped["heads"]
