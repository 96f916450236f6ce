"""Failures of phase 7's experts, injected."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.model.test_expert_vectors import disturbed, logits, same_bits

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, TwoPass, fit_dispatcher, question_features
from agent_forge.config import build_config
from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model.checkpoint import save_model
from agent_forge.model.expert_vectors import EXPERTS, LARGEST, Expert, applied, basis_of, load_experts, save_experts
from agent_forge.phases.edge.expert_exam import dispatch_accuracy, dispatch_rows, mixtures
from agent_forge.phases.edge.expert_training import VectorTraining, supervised_loss
from agent_forge.phases.edge.mixture import search_mixture
from agent_forge.phases.edge.skills import Examples, opening
from agent_forge.pipeline.gates import evaluate
from agent_forge.pipeline.resolve import with_usable_experts

ONE = [Document.chat([("user", f"Count {n}"), ("assistant", "It is one.")], "one") for n in range(8)]
OTHER = [Document.chat([("user", f"Turn {n}"), ("assistant", "No! Sam ran.")], "other") for n in range(8)]


@pytest.fixture(scope="module")
def words():
    return train_tokenizer([document.text for document in ONE + OTHER] * 4, 300)


@pytest.fixture
def taught(make_llama, words):
    """A model, and an expert that is good for ``ONE`` and bad for ``OTHER``."""
    model = make_llama().requires_grad_(False)
    basis = basis_of(model, 16)
    size = {"sequence_length": 48, "batch_size": 4, "seed": 0, "mask_prompts": True}
    good, bad = (Batches({"a": pack(documents, words)}, {"a": 1.0}, **size) for documents in (ONE, OTHER))
    training = VectorTraining(model, basis, learning_rate=0.1)
    for step in range(20):
        with training.applied():
            loss = supervised_loss(model, good.batch(step)) - supervised_loss(model, bad.batch(step))
            assert training.update(loss, 1.0)
    return model, Expert("one", {name: z.half().float() for name, z in training.copies().items()}, basis.digest)


def blocked(gain):
    """The gates of the demo that such a figure does not pass."""
    gates = [gate for gate in build_config("demo").gates["edge"] if gate.metric == "edge/mixture_worst_gain_fraction"]
    return [each for each in evaluate("edge", gates, {gates[0].metric: gain}) if each.blocks]


def test_pr7_m_a_mixture_that_only_fits_what_it_was_searched_with_is_not_taken(taught, words):
    model, expert = taught
    searched = {"generator": torch.Generator().manual_seed(0), "population": 2, "generations": 1}
    found = search_mixture(model, words, [expert], [ONE, ONE], **searched)
    assert found.mixture is not None
    # each second of one group: searched with on ``ONE``, judged on ``OTHER``
    group = [document for pair in zip(ONE, OTHER, strict=True) for document in pair]
    found = search_mixture(model, words, [expert], [group], **searched)
    assert found.mixture_nats > found.base_nats
    assert (found.mixture, found.weights) == (None, (0.0,))
    (row,) = mixtures(model, words, [expert], {"a": [group]}, {"a": OTHER}, **searched)
    assert (row["taken"], row["gain_fraction"]) == (False, 0.0)
    assert not blocked(row["gain_fraction"])
    # with too few examples to judge by nothing is searched
    (row,) = mixtures(model, words, [expert], {"a": [ONE[:3]]}, {"a": ONE}, **searched)
    assert (row["taken"], row["evaluations"], row["gain_fraction"]) == (False, 0, 0.0)


def test_pr7_d_a_dispatch_that_sends_questions_to_the_wrong_expert_is_measured_and_blocks(taught, words):
    model, expert = taught
    features = {
        name: question_features(model, words, [opening(document) for document in documents])
        for name, documents in (("one", ONE), ("other", OTHER))
    }
    right = TwoPass(model, words, [expert], fit_dispatcher({BASE: features["other"], "one": features["one"]}))
    wrong = TwoPass(model, words, [expert], fit_dispatcher({BASE: features["one"], "one": features["other"]}))
    (good,) = dispatch_rows(right, {"a": ONE + OTHER})
    assert good["gain_fraction"] > 0
    assert not blocked(good["gain_fraction"])
    (bad,) = dispatch_rows(wrong, {"a": ONE + OTHER})
    assert bad["gain_fraction"] < -0.01
    assert blocked(bad["gain_fraction"])
    held = {"one": Examples(tuple(ONE), ()), BASE: Examples(tuple(OTHER), ())}
    assert [dispatch_accuracy(two_pass, held)[0] for two_pass in (right, wrong)] == [1.0, 0.0]


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


@pytest.mark.parametrize("fault", ["not a number", "not there", "of another format"])
def test_pr7_an_agent_talks_without_the_expert_that_cannot_be_used_and_says_so_once(
    fault, tmp_path, make_llama, words, forge
):
    """As the model is, in every row of the design that asks for it; a row with a sound expert keeps its own."""
    model, place = make_llama(), tmp_path / "agent"
    save_model(model, words, place, {})
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
        save_file(load_file(path), path, {"agent_forge": '{"format_version": 99, "experts": []}'})
    said = forge("chat", place, "--max-tokens", "8", stdin="Say\nSay\n")
    assert said.code == 0, said.err
    assert said.out == 2 * bare.out
    assert said.sentence().startswith("agent-forge: the expert hurt is left out: ")
    assert {"not a number": "not finite", "not there": "not among", "of another format": "version 99"}[
        fault
    ] in said.err
    usable = {"sound"} if fault == "not a number" else set()
    routed = replace(AgentDesign(experts={"sound": 1.0}), routes=(("sum", mixture),))
    found, _, left_out = with_usable_experts(place, model, routed)
    assert left_out.keys() == {"hurt", "sound"} - usable
    assert found.experts == ((("sound", 1.0),) if usable else ())
    assert found.route("sum").experts == ()
