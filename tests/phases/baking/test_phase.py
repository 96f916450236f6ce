"""The phase on an untrained model: contract, exactly ternary, kill and resume to the same bytes."""

import json

import pytest

from agent_forge.agent.toolbox import Toolbox
from agent_forge.contract import Phase
from agent_forge.errors import HandoffError, Interrupted
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import is_exactly_ternary
from agent_forge.phases import load
from agent_forge.pipeline.handoffs import check_handoffs
from agent_forge.pipeline.memory_context import MemoryContext

GATES = {
    "baking/tools_well_formed", "baking/tools_right_tool", "baking/tools_right_answer",
    "baking/no_call_when_none_needed", "baking/persona_preference", "baking/persona_preference_after_10_turns",
    "baking/divergence_ratio", "baking/text_ratio", "baking/exactly_ternary", "baking/tools_dropped",
    "baking/tools_right_answer_unseen_people", "baking/persona_preference_both_orders",
}  # fmt: skip


def test_keeps_the_contract(baked):
    artifact, context = baked
    phase = load("baking")
    assert isinstance(phase, Phase)
    assert phase.consumes == {"model": "checkpoint", "corpus": "corpus"}
    assert {"tools.json", "knowledge.json", "ternary.json", "packed.safetensors", "forge.json"} <= set(artifact.files)
    assert set(context.measured) >= GATES
    facts = json.loads((context.path(artifact) / "forge.json").read_text())
    assert (facts["phase"], facts["tools"]) == ("baking", ["calculator", "clock"])


def test_the_agent_is_ternary_again_and_brings_its_tools(baked):
    artifact, context = baked
    folder = context.path(artifact)
    assert is_exactly_ternary(folder)
    assert context.measured["baking/exactly_ternary"] == 1.0
    box = Toolbox.load(folder)
    assert list(box.tools) == ["calculator", "clock"]
    assert len(box.knowledge.records) >= 12
    load_model(folder)


def test_the_handoff_wants_ternary_weights_and_a_manifest(baked, baking_folders, tmp_path):
    artifact, context = baked
    check_handoffs(("exactly_ternary", "tool_manifest"), {"model": artifact}, context)
    bare = context.adopt("checkpoint", baking_folders / "ternary")
    with pytest.raises(HandoffError, match=r"without tools\.json"):
        check_handoffs(("tool_manifest",), {"model": bare}, context)


def test_the_report_gets_dialogues_and_rounds(baked):
    page = baked[1].attachments["baking"]
    assert len(page["dialogues"]) >= 4
    assert {"question", "turns", "right", "tool"} <= set(page["dialogues"][0])
    assert page["rounds"][0]["number"] == 0
    assert page["ended"] in ("success", "plateau", "rounds")


@pytest.mark.parametrize("kept", [2, 6])
def test_a_killed_run_ends_with_the_same_bytes(baking_folders, bake, baked, tmp_path, kept):
    whole, context = baked
    again = MemoryContext(tmp_path, seed=3)
    again.states = context.states[: kept + 1]
    artifact, _ = bake(baking_folders, tmp_path, context=again)
    assert artifact.files == whole.files
    assert again.measured == context.measured


def test_a_stop_saves_and_says_where(baking_folders, bake, tmp_path):
    context = MemoryContext(tmp_path, seed=3)
    context.stopping = True
    with pytest.raises(Interrupted, match="practice, step 0"):
        bake(baking_folders, tmp_path, context=context)
    assert context.states


def test_low_rank_deltas_on_a_model_in_full_precision(baking_folders, bake, tiny_baking, tmp_path):
    config = tiny_baking.model_copy(update={"adapter_rank": 2, "iterations": 1, "persona": "Speak like a sailor."})
    artifact, context = bake(baking_folders, tmp_path, config, model="plain")
    assert "ternary.json" not in artifact.files
    assert "baking/exactly_ternary" not in context.measured
    assert context.measured["baking/divergence_baked"] >= 0


def test_pr6_tools_that_a_model_cannot_use_are_left_out_visibly(baking_folders, bake, tiny_baking, tmp_path):
    """An untrained model uses no tool: the agent gets none, and the run says why."""
    config = tiny_baking.model_copy(update={"min_tool_accuracy": 0.5, "iterations": 1})
    artifact, context = bake(baking_folders, tmp_path, config)
    seen = [(failure, message) for failure, message, _ in context.warnings if failure == "PR6"]
    assert len(seen) == 2
    assert "tool calculator is dropped" in seen[0][1]
    assert context.measured["baking/tools_dropped"] == 2
    assert json.loads((context.path(artifact) / "tools.json").read_text())["tools"] == []
    # dropping a tool must not raise a figure: its questions still count, as wrong
    assert context.measured["baking/tools_right_answer"] == 0.0
