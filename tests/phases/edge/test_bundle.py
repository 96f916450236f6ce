"""The bundle sits the exam: real questions, the real loop, tools that are really called; and its gate."""

import shutil

import onnx
import pytest
from onnx import numpy_helper
from tests.agent.dialogues import taught

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.tool_exam import questions_about, worlds_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.config import build_config
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.data.world_knowledge import world_records
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.phases.edge.bundle import bundle, examined
from agent_forge.phases.edge.config import EdgeConfig
from agent_forge.phases.edge.judgement import Judgement
from agent_forge.pipeline.gates import evaluate

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CONFIG = EdgeConfig(levels=(1,), bundle_questions=8, answer_tokens=16)
PRESETS = ("smoke", "demo", "small", "base25m")


def learned(corpus):
    """The questions of the exam, with their answers."""
    worlds = worlds_of(CONFIG.levels, corpus, 0, ["calculator"])
    rows = questions_about(worlds, CONFIG.levels, ["calculator"], "test", CONFIG.bundle_questions)
    for exchange in [exchange for _, each in rows for exchange in each]:
        turns = [("user", exchange.ask)]
        for call, result in exchange.steps:
            turns += [("assistant", call), ("user", f"result: {result}")]
        yield Document.chat([*turns, ("assistant", exchange.answer)])


@pytest.fixture(scope="module")
def packed(edge_folders, tmp_path_factory):
    """An agent that has learned the exam by heart, its judgement and its bundle with the figures."""
    place = tmp_path_factory.mktemp("examined")
    corpus = Corpus.open(edge_folders / "corpus")
    documents = list(learned(corpus))
    tokenizer = train_tokenizer([document.text for document in documents] * 4, 400)
    save_model(taught(tokenizer, documents, 120), tokenizer, place / "agent")
    world_toolbox(Knowledge(world_records(0, 1))).only(["calculator"]).save(place / "agent")
    agent, _ = load_model(place / "agent")
    judgement = Judgement(CONFIG, tokenizer, corpus, Toolbox.load(place / "agent"), "", 0)
    return agent, judgement, *bundle(place / "agent", place / "bundle", CONFIG, judgement, agent)


def gates(measured):
    """Whether the gate of every preset passes."""
    found = []
    for name in PRESETS:
        rules = [rule for rule in build_config(name).gates["edge"] if rule.metric == "edge/bundle_points_lost"]
        found += [result.passed for result in evaluate("edge", rules, measured)]
    assert len(found) == len(PRESETS)
    return set(found)


def test_the_bundle_answers_what_the_model_answers(packed):
    *_, figures = packed
    assert figures["edge/bundle_right_answer"] == figures["edge/model_right_answer"] > 0.8
    assert figures["edge/bundle_points_lost"] == 0.0
    assert figures["edge/onnx_equal_fraction"] == 1.0
    assert gates(figures) == {True}


def test_a_bundle_that_forgot_fails_its_gate(packed, tmp_path):
    agent, judgement, folder, _ = packed
    shutil.copytree(folder, tmp_path / "bundle")
    graph = onnx.load(folder / "model.onnx")
    for weight in graph.graph.initializer:
        if len(weight.dims) == 2:
            weight.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(weight), weight.name))
    onnx.save(graph, tmp_path / "bundle" / "model.onnx")
    found = examined(tmp_path / "bundle", agent, judgement, CONFIG.bundle_questions)
    assert found["edge/bundle_points_lost"] > 2.0
    assert gates(found) == {False}


def test_nothing_is_asked_where_nothing_is_wanted_or_known(packed, edge_folders):
    agent, judgement, folder, _ = packed
    assert examined(folder, agent, judgement, 0) == {"edge/bundle_points_lost": 0.0}
    without = Judgement(CONFIG, judgement.tokenizer, judgement.corpus, None, "", 0)
    assert examined(folder, agent, without, 8) == {"edge/bundle_points_lost": 0.0}
