"""What can go wrong with an export, injected: a wrong graph, damaged files, weights from elsewhere, no extra."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.phases.edge.onnx_models import ternary_folder

from agent_forge.errors import ArtifactCorrupt, ConfigError
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.edge.export_onnx import export_onnx, unrounded_parity
from agent_forge.phases.edge.onnx_parity import parity
from agent_forge.phases.edge.onnx_session import OnnxSession

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    folder = ternary_folder(place / "model")
    return folder, place / "out", export_onnx(folder, place / "out", "cpu")


@pytest.fixture
def damaged(exported, tmp_path):
    shutil.copytree(exported[1], tmp_path / "out")
    return tmp_path / "out"


def _changed(folder, change):
    """Rewrites the graph of an export after ``change``."""
    graph = onnx.load(folder / "model.onnx")
    change(graph.graph)
    onnx.save(graph, folder / "model.onnx")


def test_the_agent_that_rounds_its_inputs_keeps_its_tokens(exported):
    facts = exported[2]
    assert facts["equal_tokens"] == facts["compared_tokens"] == 200
    assert facts["same_past_within"] > 0.5
    assert facts["same_past_median"] < 1e-3
    assert facts["torch_max_logit_difference"] > 0


@pytest.mark.parametrize("flavour", ["cpu", "web"])
def test_without_rounding_graph_and_model_agree_to_the_fifth_digit(exported, flavour):
    """So the larger difference with it is the rounding, and no wrong weight."""
    facts = unrounded_parity(exported[0], flavour)
    assert facts["unrounded_equal_tokens"] == 200
    assert facts["unrounded_max_logit_difference"] < 1e-4


def test_a_model_that_rounds_nothing_has_no_such_figure(tmp_path):
    assert unrounded_parity(ternary_folder(tmp_path / "model", activation_bits=0)) == {}


def test_pr7_o_one_wrong_scale_is_seen_by_the_parity(exported, damaged):
    def change(graph):
        scale = next(t for t in graph.initializer if t.name.endswith("down.matrix.scale"))
        scale.CopyFrom(numpy_helper.from_array(3 * numpy_helper.to_array(scale), scale.name))

    _changed(damaged, change)
    facts = parity(*load_model(exported[0]), damaged, 60)
    assert facts["max_logit_difference"] > 10 * exported[2]["max_logit_difference"]
    assert facts["same_past_within"] < 0.1
    assert facts["equal_tokens"] < facts["compared_tokens"]


def test_a_graph_that_forgets_its_state_is_seen_by_the_parity(exported, damaged):
    manifest = json.loads((damaged / "onnx.json").read_text())
    keys = [state for state in manifest["states"] if state["input"].endswith("key")]
    keys[0]["output"], keys[1]["output"] = keys[1]["output"], keys[0]["output"]
    (damaged / "onnx.json").write_text(json.dumps(manifest))
    facts = parity(*load_model(exported[0]), damaged, 60)
    assert facts["equal_tokens"] < facts["compared_tokens"]


def test_weights_from_other_files_are_refused(damaged):
    def change(graph):
        tensor = graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../../etc/passwd")

    graph = onnx.load(damaged / "model.onnx")
    change(graph.graph)
    (damaged / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ArtifactCorrupt, match="wants weights from other files"):
        OnnxSession(damaged)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 9}', '{"format": 2}', "\x00"])
def test_a_damaged_manifest_is_refused(damaged, text):
    (damaged / "onnx.json").write_text(text)
    with pytest.raises(ArtifactCorrupt, match=r"onnx\.json"):
        OnnxSession(damaged)


def test_a_cut_graph_is_refused(damaged):
    content = (damaged / "model.onnx").read_bytes()
    (damaged / "model.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx"):
        OnnxSession(damaged)


def test_without_the_extra_a_sentence_says_what_to_install(exported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install agent-forge\[edge\]"):
        export_onnx(exported[0], tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install agent-forge\[edge\]"):
        OnnxSession(exported[1])


def test_empty_and_broken_numbers_stay_visible(exported):
    session = OnnxSession(exported[1], threads=1)
    session.past["past_convolution.0.attention"][:] = np.nan
    assert np.isnan(session.step([5])).all()
