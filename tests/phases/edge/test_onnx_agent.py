"""Experts and routes in a graph: they change what it says as they change the model, and zeros change nothing."""

import json
import shutil

import numpy as np
import pytest
import torch
from tests.agent.dialogues import DIALOGUES, PLAIN
from tests.phases.edge.onnx_models import cognate, plain_folder, ternary_folder
from tests.phases.edge.web_agents import agent_folder

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, Dispatcher, fit_dispatcher, question_features
from agent_forge.agent.interpreter import answer
from agent_forge.agent.toolbox import Toolbox
from agent_forge.errors import ConfigError, HandoffError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import Expert, applied, basis_of, normalised, save_experts
from agent_forge.model.forward import mean_hidden
from agent_forge.phases.edge.export_onnx import export_onnx, write_graph
from agent_forge.phases.edge.onnx_agent import Brought, as_input, brought, experts_of
from agent_forge.phases.edge.onnx_model import load_graph
from agent_forge.phases.edge.onnx_session import OnnxSession
from agent_forge.pipeline.resolve import load_agent

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
KINDS = {BASE: [*PLAIN], "sum": ["What is 17 + 25?", "What is 1 / 0?"], "person": ["Where does Ada Vane live?"]}
ROUTED = AgentDesign(
    routes={
        "sum": AgentDesign(experts={"strong": 1.0}),
        "person": AgentDesign(experts={"strong": 0.25, "weak": 1.5}, samples=3, temperature=0.6),
    }
)
TOKENS = torch.randint(5, 300, (30,), generator=torch.Generator().manual_seed(3)).tolist()
TEXTS = [[1, 5, 9, 40, 7], [1, 8, *range(20, 60)]]


def with_belongings(folder, design=ROUTED, strength=0.3):
    """Gives a checkpoint two experts drawn at random, a classifier and a design."""
    model, tokenizer = load_model(folder)
    basis = basis_of(model, 6)
    generator = torch.Generator().manual_seed(1)
    experts = [
        Expert(name, normalised({
            key: 1 + scale * torch.randn(len(each.singular), generator=generator)
            for key, each in basis.factors.items()
        }), basis.digest)
        for name, scale in (("weak", strength / 4), ("strong", strength), ("idle", strength))
    ]  # fmt: skip
    save_experts(folder, experts, basis)
    fit_dispatcher({name: question_features(model, tokenizer, each) for name, each in KINDS.items()}).save(folder)
    design.save(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("routed")
    folder = with_belongings(agent_folder(place / "model"))
    return folder, place / "out", export_onnx(folder, place / "out", "cpu", tokens=40)


def test_a_routed_design_with_experts_answers_alike(folders):
    folder, out, facts = folders
    assert facts["experts_equal_tokens"] == facts["experts_compared_tokens"] == 40  # two mixtures, half each
    found = []
    questions = [*DIALOGUES, *PLAIN]
    for place in (folder, out):
        agent = load_agent(place)
        kinds = agent.first_pass(questions)
        answers = answer(
            agent.model, agent.tokenizer, Toolbox.load(place), agent.design, questions,
            first_pass=agent.first_pass, equip=agent.equip, max_tokens=16, seed=3,
        )  # fmt: skip
        said = [[(turn.kind, turn.text) for turn in each.transcript.turns] for each in answers]
        found.append((kinds, said, [each.num_tokens for each in answers]))
    assert found[0] == found[1]
    assert set(found[0][0]) == set(KINDS)
    plain = load_agent(out, designed=False)
    habit = answer(plain.model, plain.tokenizer, Toolbox.load(out), AgentDesign(), questions, max_tokens=16)
    other = [[(turn.kind, turn.text) for turn in each.transcript.turns] for each in habit]
    changed = [found[0][0][n] for n in range(len(questions)) if other[n] != found[0][1][n]]
    assert changed
    assert BASE not in changed  # what has no route is answered as ever


def test_chat_carries_the_routes_out(folders, forge):
    folder, out, _ = folders
    asked = "".join(f"{question}\n" for question in [*DIALOGUES, *PLAIN])
    here, there = (forge("chat", place, "--max-tokens", "16", stdin=asked) for place in (folder, out))
    assert there.code == 0, there.err
    assert there.out == here.out


def test_the_manifest_says_what_a_runner_needs(folders):
    folder, out, _ = folders
    told = json.loads((out / "onnx.json").read_text())
    assert told["format"] == 2
    part, routes = told["experts"], told["routes"]
    width = sum(row["rank"] for row in part["matrices"])
    assert (part["input"], part["shape"]) == ("experts", [1, width])
    assert set(part["vectors"]) == {"strong", "weak"}  # the design asks for no other
    assert all(len(values) == width for values in part["vectors"].values())
    assert (told["features"], set(routes["classes"])) == (
        {"output": "features", "shape": [1, 64], "one_by_one": False}, set(KINDS),
    )  # fmt: skip
    stored = Dispatcher.open(folder, "routes.safetensors")
    assert torch.equal(torch.tensor(routes["weight"]), stored.weight)
    assert torch.equal(torch.tensor(routes["bias"]), stored.bias)
    assert not (out / "routes.safetensors").exists()
    session = OnnxSession(out, threads=1).session
    assert [entry.name for entry in session.get_inputs()][:2] == ["input_ids", "experts"]
    assert [entry.name for entry in session.get_outputs()][:2] == ["logits", "features"]


def test_vectors_come_back_to_the_last_bit(folders):
    folder, out, _ = folders
    model, _ = load_model(folder)
    manifest = json.loads((out / "onnx.json").read_text())
    stored = {expert.name: expert for expert in brought(folder, model).experts}
    for expert in experts_of(manifest, "onnx.json"):
        assert {name: z.tolist() for name, z in expert.vectors.items()} == {
            name: z.tolist() for name, z in stored[expert.name].vectors.items()
        }


def test_zeros_change_nothing_bit_for_bit(tmp_path):
    folder = ternary_folder(tmp_path / "model")
    export_onnx(folder, tmp_path / "without", "web", tokens=4)
    with_belongings(folder, AgentDesign(experts={"strong": 1.0}))
    facts = export_onnx(folder, tmp_path / "with", "web", tokens=4)
    assert facts["bytes"] > (tmp_path / "without" / "model.onnx").stat().st_size
    for name in ("features", "routes"):
        assert name not in json.loads((tmp_path / "with" / "onnx.json").read_text())
    without, zeros = (OnnxSession(tmp_path / name, threads=1) for name in ("without", "with"))
    for part in (TOKENS[:20], *([token] for token in TOKENS[20:])):
        assert np.array_equal(zeros.step(part), without.step(part))
    graph, _ = load_graph(tmp_path / "with")
    with graph.wearing(experts_of(graph.session.manifest, "")[0]):
        assert not np.array_equal(graph.session.step(TOKENS), OnnxSession(tmp_path / "without").step(TOKENS))
    assert not graph.session.experts.any()


def differences(model, tokenizer, place, needs):
    """Largest difference of logits with each expert, and of features without any, graph against model."""
    manifest = write_graph(model, place / "model.onnx", "cpu", needs)
    manifest["tokens"] = {"eos": []}
    (place / "onnx.json").write_text(json.dumps(manifest))
    (place / "config.json").write_text("{}")
    tokenizer.save_pretrained(place)
    graph, _ = load_graph(place)
    logits, told = 0.0, experts_of(manifest, "")
    for mine, theirs in zip(told, needs.experts, strict=True):
        with applied(model, theirs), torch.inference_mode():
            wanted = model(input_ids=torch.tensor([TOKENS]), use_cache=False).logits[0]
        graph.session.reset()
        with graph.wearing(mine):
            for n, token in enumerate(TOKENS):
                logits = max(logits, float((torch.from_numpy(graph.session.step([token])) - wanted[n]).abs().max()))
    features = max(
        float((mean_hidden(graph, TEXTS, skip=skip) - mean_hidden(model, TEXTS, skip=skip)).abs().max())
        for skip in (0, 1)
    )
    return logits, features, manifest


@pytest.mark.parametrize(
    "changes",
    [
        {"memory": "ema", "memory_every": 2}, {"recursion_steps": 2, "num_key_value_heads": 1},
        {"recursion_steps": 4, "act": True, "stateless_mode": False},
    ],
    ids=" ".join,
)  # fmt: skip
def test_every_part_is_adapted_as_in_the_model(tmp_path, changes):
    folder = plain_folder(tmp_path / "model", **changes)
    model, tokenizer = load_model(with_belongings(folder))
    if changes.get("act"):
        model.halting.projection.bias.data += 5.0
    needs = brought(folder, model)
    (tmp_path / "out").mkdir()
    logits, features, manifest = differences(model, tokenizer, tmp_path / "out", needs)
    assert logits < 1e-4
    assert features < 1e-5
    assert manifest["features"]["one_by_one"] is bool(changes.get("recursion_steps"))


def test_a_foreign_model_is_adapted_too(tmp_path, make_llama):
    from tests.phases.edge.onnx_models import tokenizer

    model = make_llama()
    basis = basis_of(model, 3)
    expert = Expert("odd", normalised({name: torch.full((3,), 1.5) for name in basis.factors}), basis.digest)
    dispatcher = Dispatcher((BASE, "sum"), torch.ones(2, 32), torch.zeros(2))
    modules = dict(model.named_modules())
    factors = {modules[name.removesuffix(".weight")]: (name, each) for name, each in basis.factors.items()}
    needs = Brought([expert], [expert], factors, dispatcher)
    logits, features, manifest = differences(model, tokenizer(), tmp_path, needs)
    assert logits < 1e-4
    assert features < 1e-5
    assert manifest["features"] == {"output": "features", "shape": [1, 32], "one_by_one": True}
    given = as_input(experts_of(manifest, "")[0], manifest)
    assert given.shape == (1, 3 * len(basis.factors))
    assert np.all(given == 0.5)


def test_a_graph_lacks_what_it_was_not_made_for(tmp_path):
    folder = plain_folder(tmp_path / "model")
    export_onnx(folder, tmp_path / "out", "cpu", tokens=4)
    graph, _ = load_graph(tmp_path / "out")
    with pytest.raises(ConfigError, match="an ONNX graph without features"):
        mean_hidden(graph, TEXTS)
    ROUTED.save(tmp_path / "out")
    with pytest.raises(HandoffError, match=r"asks for the expert strong: it is not among.*--no-design does without"):
        load_agent(tmp_path / "out")
    AgentDesign(routes={"sum": AgentDesign(think="off")}).save(tmp_path / "out")
    with pytest.raises(HandoffError, match="the graph was exported for one without"):
        load_agent(tmp_path / "out")


def test_what_the_design_needs_must_be_beside_the_weights(tmp_path):
    folder = plain_folder(tmp_path / "model")
    AgentDesign(experts={"strong": 1.0}).save(folder)
    with pytest.raises(HandoffError, match="asks for the expert strong: it is not among its experts"):
        export_onnx(folder, tmp_path / "out", "cpu")
    AgentDesign(routes={"sum": AgentDesign(think="off")}).save(folder)
    with pytest.raises(HandoffError, match="is not beside it"):
        export_onnx(folder, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    shutil.copytree(folder, tmp_path / "wide")
    Dispatcher((BASE, "sum"), torch.zeros(2, 31), torch.zeros(2)).save(tmp_path / "wide")
    with pytest.raises(HandoffError, match="reads 31 features, and this model has 32"):
        export_onnx(tmp_path / "wide", tmp_path / "out", "cpu")


def test_an_adapted_matrix_that_the_graph_lacks_is_seen(tmp_path):
    model = cognate()
    basis = basis_of(model, 2)
    name, each = next(iter(basis.factors.items()))
    stranger = {torch.nn.Linear(2, 2): (name, each)}
    expert = Expert("odd", {name: torch.ones(2)}, "")
    with pytest.raises(HandoffError, match=f"experts adapt {name}, and the graph has no such product"):
        write_graph(model, tmp_path / "model.onnx", "cpu", Brought([expert], [expert], stranger))
