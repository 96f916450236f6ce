"""Expert vectors: what a side path computes, when it computes nothing, and which vectors are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from agent_forge.errors import HandoffError
from agent_forge.model.checkpoint import save_model
from agent_forge.model.expert_vectors import (
    EXPERTS,
    LARGEST,
    SMALLEST,
    Expert,
    applied,
    basis_of,
    decompose,
    faults,
    identity,
    load_experts,
    mixed,
    mixture_of,
    normalised,
    save_experts,
    side_paths,
)
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear, codes_of, ternary_linears


class Two(nn.Module):
    """One matrix."""

    def __init__(self, weight):
        super().__init__()
        self.body = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.body.weight = nn.Parameter(weight.clone())

    def forward(self, x):
        return self.body(x)


def ternary(model):
    """The model with frozen ternary layers."""
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout()).freeze()
    return model


def disturbed(basis, name="skill", spread=0.5, seed=0):
    """An expert with values around 1."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {
        key: 1 + spread * (torch.rand(len(each.singular), generator=generator) - 0.5)
        for key, each in basis.factors.items()
    }
    return Expert(name, normalised(vectors), basis.digest, {"gain": 0.5})


def logits(model, seed=0):
    ids = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


def same_bits(first, second):
    return torch.equal(first.contiguous().view(torch.uint8), second.contiguous().view(torch.uint8))


def test_a_diagonal_matrix_by_hand():
    """W = diag(3, 2): z = (2, 0.5) doubles what belongs to 3 and halves what belongs to 2."""
    model = Two(torch.diag(torch.tensor([3.0, 2.0])))
    basis = decompose(model, 2)
    assert basis.factors["body.weight"].singular.tolist() == [3.0, 2.0]
    expert = Expert("by hand", {"body.weight": torch.tensor([2.0, 0.5])}, basis.digest)
    with applied(model, expert, basis):
        assert torch.allclose(model(torch.tensor([1.0, 1.0])), torch.tensor([6.0, 1.0]), atol=1e-6)
    assert model(torch.tensor([1.0, 1.0])).tolist() == [3.0, 2.0]


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 7), st.integers(1, 7), st.integers(1, 9), st.integers(0, 10_000)
)  # fmt: skip
def test_equals_the_matrix_with_other_singular_values(rows, columns, rank, seed):
    """Parity with numpy: (U diag(σ ⊙ z) Vᵀ) x with z = 1 beyond the rank."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows + 1, columns, generator=generator)
    model = Two(weight)
    basis = decompose(model, rank)
    z = torch.rand(len(basis.factors["body.weight"].singular), generator=generator) * 2
    left, singular, right = np.linalg.svd(weight.double().numpy(), full_matrices=False)
    whole = np.ones(len(singular))
    whole[: len(z)] = z.double().numpy()
    x = torch.randn(3, columns, generator=generator)
    with side_paths(model, basis, {"body.weight": z}):
        ours = model(x).detach().numpy()
    theirs = x.double().numpy() @ (left @ np.diag(singular * whole) @ right).T
    assert np.allclose(ours, theirs, atol=1e-4)


def test_equals_a_lora_layer_of_peft_with_the_same_factors():
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    weight = torch.randn(6, 5)
    ours, theirs = Two(weight), Two(weight)
    basis = decompose(ours, 3)
    factors, z = basis.factors["body.weight"], torch.tensor([1.5, 0.25, 2.0])
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=["body"]), theirs, adapter_name="a")
    with torch.no_grad():
        theirs.body.lora_A["a"].weight.copy_(factors.right)
        theirs.body.lora_B["a"].weight.copy_(factors.left * (factors.singular * (z - 1)))
    x = torch.randn(4, 5)
    with side_paths(ours, basis, {"body.weight": z}):
        assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@pytest.mark.parametrize("kind", ["cognate", "ternary cognate", "llama", "ternary llama"])
def test_ones_are_the_identity_bit_for_bit_and_weights_stay(kind, make_cognate, make_llama):
    model = make_cognate() if "cognate" in kind else make_llama()
    model = ternary(model) if kind.startswith("ternary") else model
    stored = {name: value.clone() for name, value in model.state_dict().items()}
    before = logits(model)
    basis = decompose(model, 8)
    with applied(model, identity(basis), basis):
        assert same_bits(before, logits(model))
    with applied(model, disturbed(basis), basis):
        assert not torch.equal(before, logits(model))
    assert same_bits(before, logits(model))
    assert all(same_bits(value, stored[name]) for name, value in model.state_dict().items())


def test_a_ternary_matrix_holds_its_codes_while_an_expert_is_at_work(make_cognate):
    model = ternary(make_cognate())
    before = {name: codes_of(layer.weight, layer.layout) for name, layer in ternary_linears(model).items()}
    with applied(model, disturbed(basis_of(model, 4))):
        for name, layer in ternary_linears(model).items():
            codes, scale = codes_of(layer.weight, layer.layout)
            assert torch.equal(codes, before[name][0])
            assert torch.equal(scale, before[name][1])


def test_one_token_at_a_time_gives_the_same_as_all_at_once(make_cognate):
    model = ternary(make_cognate(memory="off"))
    ids = torch.tensor([[1, 9, 8, 7, 6, 5]])
    with applied(model, disturbed(basis_of(model, 8))), torch.inference_mode():
        whole = model(input_ids=ids, use_cache=False).logits
        cache = model.make_cache()
        steps = [model(input_ids=ids[:, n : n + 1], past_key_values=cache, use_cache=True).logits for n in range(6)]
    assert torch.allclose(whole, torch.cat(steps, 1), atol=1e-4)


def test_gradients_reach_z_and_nothing_else(make_llama):
    model = make_llama().requires_grad_(False)
    basis = decompose(model, 4)
    z = {name: torch.ones(len(each.singular), requires_grad=True) for name, each in basis.factors.items()}
    with side_paths(model, basis, z):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).logits.square().sum().backward()
    assert all(each.grad is not None and bool(each.grad.any()) for each in z.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mixtures_keep_the_base_for_what_is_left():
    basis = decompose(Two(torch.randn(4, 4, generator=torch.Generator().manual_seed(1))), 4)
    one, two = disturbed(basis, "one", seed=1), disturbed(basis, "two", seed=2)
    (name,) = basis.factors
    assert torch.equal(mixed([one, two], [0.0, 0.0]).vectors[name], torch.ones(4))
    assert torch.equal(mixed([one, two], [1.0, 0.0]).vectors[name], one.vectors[name])
    half = mixed([one, two], [0.5, 0.25]).vectors[name]
    assert torch.allclose(half, 1 + 0.5 * (one.vectors[name] - 1) + 0.25 * (two.vectors[name] - 1), atol=1e-3)
    wild = mixed([one, two], [40.0, 40.0])
    assert faults(wild, basis) == ""
    assert min(float(wild.vectors[name].min()) - SMALLEST, LARGEST - float(wild.vectors[name].max())) >= 0
    by_name = mixture_of([one, two], {"two": 0.25, "one": 0.5})
    assert by_name is not None
    assert torch.equal(by_name.vectors[name], half)
    assert mixture_of([one, two], {"one": 0.0}) is None
    with pytest.raises(ValueError, match="no expert 'three'; there are one, two"):
        mixture_of([one, two], {"three": 1.0})
    with pytest.raises(ValueError, match="2 experts and 1 weights"):
        mixed([one, two], [1.0])
    with pytest.raises(ValueError, match="finite"):
        mixed([one], [float("nan")])
    with pytest.raises(ValueError, match="different bases"):
        mixed([one, Expert("other", two.vectors, "0" * 64)], [1.0, 1.0])


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=8))
def test_normalised_values_are_in_range_and_what_is_in_range_stays(values):
    z = torch.tensor(values)
    found = normalised({"a": z})["a"]
    assert float(found.min()) >= SMALLEST
    assert float(found.max()) <= LARGEST
    assert torch.equal(found, normalised({"a": found})["a"])
    if z.min() >= SMALLEST and z.max() <= LARGEST:
        assert torch.allclose(found, z, atol=4e-3)


def test_a_basis_is_computed_once_until_a_weight_is_written_to(make_llama):
    model = make_llama()
    first = basis_of(model, 4)
    assert basis_of(model, 4) is first
    assert basis_of(model, 2) is not first
    with torch.no_grad():
        next(module for _, module in quantizable_linears(model)).weight.mul_(2.0)
    assert basis_of(model, 4).digest != first.digest


def test_a_basis_that_was_first_asked_for_in_inference_mode_can_be_trained_with(make_llama):
    model = make_llama().requires_grad_(False)
    with torch.inference_mode():
        basis = basis_of(model, 4)
    z = {name: torch.ones(len(each.singular), requires_grad=True) for name, each in basis.factors.items()}
    with side_paths(model, basis, z):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False).logits.sum().backward()
    assert all(each.grad is not None for each in z.values())
    with torch.inference_mode():
        made = make_llama()
    assert basis_of(made, 4).digest == basis.digest


def test_a_digest_is_about_values_and_not_about_their_form(make_cognate):
    model = ternary(make_cognate())
    plain = make_cognate()
    plain.load_state_dict(model.state_dict())
    assert decompose(model, 2).digest == decompose(plain, 2).digest


def test_written_and_read_again(tmp_path, make_cognate, tokenizer):
    model = ternary(make_cognate())
    save_model(model, tokenizer, tmp_path, {})
    assert load_experts(tmp_path, model) == ([], {})
    basis = basis_of(model, 8)
    made = [disturbed(basis, "drills/sum", seed=1), disturbed(basis, "b", seed=2)]
    first = save_experts(tmp_path, made, basis, more={"dispatch/x": torch.ones(2)}).read_bytes()
    assert save_experts(tmp_path, made, basis, more={"dispatch/x": torch.ones(2)}).read_bytes() == first
    usable, skipped = load_experts(tmp_path, model)
    assert skipped == {}
    assert [(each.name, each.base, each.facts) for each in usable] == [
        ("drills/sum", basis.digest, {"gain": 0.5}), ("b", basis.digest, {"gain": 0.5})
    ]  # fmt: skip
    for one, other in zip(made, usable, strict=True):
        assert all(torch.equal(one.vectors[name], other.vectors[name]) for name in one.vectors)
        assert one.num_parameters == other.num_parameters == basis.num_parameters


@pytest.mark.parametrize(("rank", "values"), [(1, 1), (100, 4)])
def test_a_rank_beyond_the_matrix_gives_all_there_is(rank, values):
    assert decompose(Two(torch.randn(4, 9)), rank).num_parameters == values


def test_what_cannot_be_decomposed_is_refused():
    with pytest.raises(ValueError, match="rank of at least 1"):
        decompose(Two(torch.eye(2)), 0)
    with pytest.raises(ValueError, match="no linear layer"):
        decompose(nn.Embedding(3, 3), 2)


def test_a_matrix_of_zeros_has_no_effect():
    model = Two(torch.zeros(3, 3))
    basis = decompose(model, 3)
    with applied(model, Expert("z", {"body.weight": torch.full((3,), 2.0)}, basis.digest), basis):
        assert model(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]


def test_an_expert_that_does_not_fit_is_not_applied_and_not_saved(tmp_path, make_llama):
    model = make_llama()
    basis = basis_of(model, 4)
    wrong = Expert("wrong", identity(basis).vectors, "0" * 64)
    with pytest.raises(ValueError, match="expert wrong cannot be used: it was made for a base"), applied(model, wrong):
        pass
    with pytest.raises(ValueError, match="expert wrong cannot be saved"):
        save_experts(tmp_path, [wrong], basis)
    with pytest.raises(ValueError, match="different names"):
        save_experts(tmp_path, [], basis)
    assert not (tmp_path / EXPERTS).exists()


@pytest.mark.parametrize("harm", ["text", "empty", "version", "header"])
def test_a_broken_file_is_told(harm, tmp_path, make_llama):
    model = make_llama()
    basis = basis_of(model, 4)
    path = save_experts(tmp_path, [disturbed(basis)], basis)
    tensors = load_file(path)
    if harm == "text":
        path.write_text("no tensors")
    elif harm == "empty":
        path.write_bytes(b"")
    else:
        header = '{"format_version": 99, "experts": []}' if harm == "version" else "{"
        save_file(tensors, path, {"agent_forge": header})
    with pytest.raises(HandoffError, match="format version 99" if harm == "version" else "not a file of expert"):
        load_experts(tmp_path, model)
