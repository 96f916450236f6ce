"""The phase on an untrained model: contract, bundle, exactly ternary, kill and resume to the same bytes."""

import json

import pytest
import torch

from agent_forge.agent.toolbox import Toolbox
from agent_forge.contract import Phase, one
from agent_forge.errors import HandoffError, Interrupted
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import is_exactly_ternary
from agent_forge.phases import load
from agent_forge.phases.edge.onnx_session import OnnxSession
from agent_forge.pipeline.handoffs import check_handoffs
from agent_forge.pipeline.memory_context import MemoryContext

GATES = {
    "edge/base_unchanged", "edge/exactly_ternary", "edge/quality_change", "edge/points_lost",
    "edge/onnx_equal_fraction", "edge/bundle_points_lost", "edge/expert_identity_exact", "edge/experts",
    "edge/target_met",
}  # fmt: skip
TIMED = ("edge/first_token_seconds", "edge/tokens_per_second", "edge/speedup_over_torch", "edge/memory_bytes",
         "edge/target_met")  # fmt: skip


def test_keeps_the_contract(at_the_edge):
    outputs, context = at_the_edge
    phase = load("edge")
    assert isinstance(phase, Phase)
    assert set(phase.produces) == set(outputs) == {"model", "bundle"}
    model, bundle = one(outputs, "model"), one(outputs, "bundle")
    assert {"tools.json", "knowledge.json", "ternary.json", "packed.safetensors", "forge.json"} <= set(model.files)
    assert {"model.onnx", "onnx.json", "tokenizer.json", "tools.json"} <= set(bundle.files)
    assert set(context.measured) >= GATES
    facts = json.loads((context.path(model) / "forge.json").read_text())
    assert (facts["phase"], facts["persona"][:12]) == ("edge", "You are Salt")


def test_what_is_stored_is_what_was_judged(at_the_edge):
    outputs, context = at_the_edge
    folder = context.path(one(outputs, "model"))
    assert is_exactly_ternary(folder)
    assert context.measured["edge/base_unchanged"] == 1.0
    assert list(Toolbox.load(folder).tools) == ["calculator", "clock"]
    cuts = context.attachments["edge"]["pruning"]["cuts"]
    model, _ = load_model(folder)
    assert (model.config.intermediate_size < 64) == bool(cuts)


def test_the_bundle_runs_without_torch_and_says_the_same(at_the_edge):
    outputs, context = at_the_edge
    model, _ = load_model(context.path(one(outputs, "model")))
    session = OnnxSession(context.path(one(outputs, "bundle")), threads=1)
    ids = [5, 9, 40, 7]
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0, -1]
    assert int(torch.from_numpy(session.step(ids)).argmax()) == int(wanted.argmax())
    assert context.measured["edge/onnx_equal_fraction"] == 1.0
    assert context.measured["edge/bundle_right_answer"] == context.measured["edge/model_right_answer"]


def test_the_handoff_wants_graph_tokenizer_and_tools(at_the_edge, tmp_path):
    outputs, context = at_the_edge
    check_handoffs(("exactly_ternary", "tool_manifest", "runnable_bundle"), outputs, context)
    (tmp_path / "onnx.json").write_text('{"file": "model.onnx"}')
    broken = {**outputs, "bundle": context.adopt("bundle", tmp_path)}
    with pytest.raises(HandoffError, match=r"without knowledge\.json, model\.onnx, tokenizer\.json, tools\.json"):
        check_handoffs(("runnable_bundle",), broken, context)


@pytest.mark.parametrize("kept", [3])
def test_a_killed_run_ends_with_the_same_bytes(edge_folders, take_to_the_edge, at_the_edge, tmp_path, kept):
    whole, context = at_the_edge
    again = MemoryContext(tmp_path, seed=3)
    again.states = context.states[: kept + 1]
    outputs, _ = take_to_the_edge(edge_folders, tmp_path, context=again)
    assert {name: one(outputs, name).files for name in outputs} == {name: one(whole, name).files for name in whole}
    same = {name: value for name, value in context.measured.items() if name not in TIMED}
    assert {name: value for name, value in again.measured.items() if name not in TIMED} == same


def test_a_stop_saves_and_says_where(edge_folders, take_to_the_edge, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    context.stopping = True
    with pytest.raises(Interrupted, match="phase edge, before"):
        take_to_the_edge(edge_folders, tmp_path, context=context)
    assert context.states
