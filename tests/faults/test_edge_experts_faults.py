"""Failures of phase 7's experts, injected."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.test_expert_vectors import disturbed, logits, same_bits

from agent_forge.agent.design import AgentDesign
from agent_forge.model.checkpoint import save_model
from agent_forge.model.expert_vectors import EXPERTS, LARGEST, applied, basis_of, load_experts, save_experts
from agent_forge.pipeline.resolve import with_usable_experts


def damage(path, change):
    """Writes the file again with its tensors changed."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, header)


def first_vector(tensors):
    return next(name for name in sorted(tensors) if name.startswith("expert/0/"))


def set_value(value):
    def change(tensors):
        tensors[first_vector(tensors)][0] = value

    return change


def shorten(tensors):
    name = first_vector(tensors)
    tensors[name] = tensors[name][:-1].clone()


def leave_out(tensors):
    del tensors[first_vector(tensors)]


def turn(tensors):
    name = next(name for name in sorted(tensors) if name.startswith("singular/"))
    tensors[name] *= 1.01


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (set_value(float("nan")), "1 of 4 values that are not finite"),
        (set_value(float("inf")), "not finite"),
        (set_value(100.0), f"to {LARGEST:g} is allowed"),
        (shorten, r"vector of shape \[3\], this model needs \[4\]"),
        (leave_out, "about other matrices"),
        (turn, "singular values of"),
    ],
)
def test_pr7_a_vector_that_cannot_be_used_is_skipped_with_its_reason(change, why, tmp_path, make_llama):
    model = make_llama()
    basis = basis_of(model, 4)
    path = save_experts(tmp_path, [disturbed(basis, "hurt"), disturbed(basis, "sound", seed=2)], basis)
    damage(path, change)
    usable, skipped = load_experts(tmp_path, model)
    # other singular values are about all experts of the file, the rest about one
    assert [each.name for each in usable] == ([] if change is turn else ["sound"])
    assert skipped.keys() == ({"hurt", "sound"} if change is turn else {"hurt"})

    assert re.search(why, skipped["hurt"]), skipped["hurt"]


def test_pr7_vectors_of_another_base_are_skipped_and_the_model_answers_as_before(tmp_path, make_llama):
    one, other, larger = make_llama(seed=0), make_llama(seed=1), make_llama(hidden=64)
    basis = basis_of(one, 4)
    save_experts(tmp_path, [disturbed(basis, "skill")], basis)
    before = logits(other)
    usable, skipped = load_experts(tmp_path, other)
    assert usable == []
    assert "digest" in skipped["skill"]
    assert same_bits(before, logits(other))
    assert "digest" in load_experts(tmp_path, larger)[1]["skill"]
    # one changed weight is another base
    (usable, _) = load_experts(tmp_path, one)
    with torch.no_grad():
        one.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    assert len(usable) == 1
    assert "digest" in load_experts(tmp_path, one)[1]["skill"]
    with pytest.raises(ValueError, match="digest"), applied(one, usable[0]):
        pass


def test_pr7_a_truncated_file_names_its_path(tmp_path, make_llama):
    from agent_forge.errors import HandoffError

    model = make_llama()
    basis = basis_of(model, 4)
    path = save_experts(tmp_path, [disturbed(basis)], basis)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(HandoffError, match=EXPERTS):
        load_experts(tmp_path, model)


@pytest.mark.parametrize("fault", ["not a number", "not there", "not readable"])
def test_pr7_an_agent_talks_without_the_expert_that_cannot_be_used_and_says_so_once(
    fault, tmp_path, make_llama, make_tokenizer, forge
):
    """As the model is, in every row of the design that asks for it; a row with a sound expert keeps its own."""
    model, place = make_llama(), tmp_path / "agent"
    save_model(model, make_tokenizer(), place, {})
    basis = basis_of(model, 4)
    path = save_experts(place, [disturbed(basis, "hurt"), disturbed(basis, "sound", seed=2)], basis)
    mixture = AgentDesign(experts={"hurt": 0.5, "sound": 0.5})
    AgentDesign(experts={"hurt": 1.0}).save(place)
    bare = forge("chat", place, "--no-design", "--max-tokens", "8", stdin="Say\n")
    if fault == "not a number":
        damage(path, set_value(float("nan")))
    elif fault == "not there":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-40])
    said = forge("chat", place, "--max-tokens", "8", stdin="Say\nSay\n")
    assert said.code == 0, said.err
    assert said.out == 2 * bare.out
    assert said.sentence().startswith("agent-forge: the expert hurt is left out: ")
    assert {"not a number": "not finite", "not there": "not among", "not readable": EXPERTS}[fault] in said.err
    usable = {"sound"} if fault == "not a number" else set()
    routed = replace(AgentDesign(experts={"sound": 1.0}), routes=(("sum", mixture),))
    found, left_out = with_usable_experts(place, model, routed)
    assert left_out.keys() == {"hurt", "sound"} - usable
    assert found.experts == ((("sound", 1.0),) if usable else ())
    assert found.route("sum").experts == ()
