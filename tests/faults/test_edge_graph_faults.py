"""What can go wrong with an export's experts and routes, injected: numbers that do not fit, another agent's graph."""

import json
import shutil

import pytest
from tests.phases.edge.onnx_models import plain_folder
from tests.phases.edge.test_onnx_agent import ROUTED, with_belongings

from agent_forge.errors import ArtifactCorrupt, HandoffError
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.onnx_session import OnnxSession
from agent_forge.pipeline.resolve import load_agent

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("faults")
    folder = with_belongings(plain_folder(place / "model"))
    export_onnx(folder, place / "out", "cpu", tokens=4)
    return place / "out"


@pytest.fixture
def damaged(exported, tmp_path):
    shutil.copytree(exported, tmp_path / "out")
    return tmp_path / "out"


def changed(folder, change):
    manifest = json.loads((folder / "onnx.json").read_text())
    change(manifest)
    (folder / "onnx.json").write_text(json.dumps(manifest))
    return folder


def test_what_is_sound_is_loaded(exported):
    agent = load_agent(exported)
    assert agent.first_pass(["What is 1 plus 2?"]) != []
    with agent.equip(agent.model, dict(ROUTED.routes)["sum"]):
        assert agent.model.session.experts.any()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda part: part["vectors"]["strong"].pop(), "the expert strong needs 84 finite numbers"),
        (lambda part: part["vectors"].update(strong=[float("nan")] * 84), "the expert strong needs 84 finite numbers"),
        (lambda part: part["vectors"].update(strong="all"), "experts cannot be read"),
        (lambda part: part["matrices"].pop(), r"matrices of ranks 78 in all, and an input of 84"),
        (lambda part: part.pop("vectors"), "experts cannot be read"),
    ],
)
def test_experts_that_do_not_fit_are_refused(damaged, harm, said):
    with pytest.raises(ArtifactCorrupt, match=said):
        load_agent(changed(damaged, lambda manifest: harm(manifest["experts"])))


def test_an_expert_that_is_missing_is_named(damaged):
    changed(damaged, lambda manifest: manifest["experts"]["vectors"].pop("weak"))
    with pytest.raises(HandoffError, match=r"asks for the expert weak.*--no-design does without"):
        load_agent(damaged)
    assert load_agent(damaged, designed=False).equip is None


@pytest.mark.parametrize(
    ("harm", "said", "kind"),
    [
        (lambda part: [row.pop() for row in part["weight"]], "reads 31 features, and this model has 32", HandoffError),
        (lambda part: part["bias"].pop(), "do not fit weights", HandoffError),
        (lambda part: part["classes"].remove("base"), "do not fit weights", HandoffError),
        (lambda part: part.update(bias=[float("inf")] * 3), "not finite", HandoffError),
        (lambda part: part["weight"][0].pop(), "routes cannot be read", ArtifactCorrupt),
        (lambda part: part.update(classes=["base", "sum", "stranger"]), "a route for 'person'", HandoffError),
    ],
)
def test_routes_that_do_not_fit_are_refused(damaged, harm, said, kind):
    with pytest.raises(kind, match=said):
        load_agent(changed(damaged, lambda manifest: harm(manifest["routes"])))


@pytest.mark.parametrize("part", ["experts", "features"])
def test_a_manifest_of_another_graph_is_refused(damaged, part):
    changed(damaged, lambda manifest: manifest.pop(part))
    with pytest.raises(ArtifactCorrupt, match=rf"model\.onnx and .*onnx\.json do not belong together.*{part}"):
        OnnxSession(damaged)


def test_an_older_format_is_refused(damaged):
    changed(damaged, lambda manifest: manifest.update(format=1))
    with pytest.raises(ArtifactCorrupt, match="has format 1, this program reads 2; update it"):
        OnnxSession(damaged)
