"""A graph in the model's place: decoding, rows, the loop and designs give what the model gives."""

import json

import pytest
import torch
from tests.agent.dialogues import CHAIN, DIALOGUES
from tests.phases.edge.onnx_models import ternary_folder
from tests.phases.edge.web_agents import QUESTIONS, agent_folder

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import answer
from agent_forge.agent.runtime import converse, converse_all
from agent_forge.agent.toolbox import Toolbox
from agent_forge.errors import HandoffError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.generation import generate_tokens
from agent_forge.model.row_generation import generate_rows
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.onnx_model import GraphModel, load_graph

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
PROMPTS = [[1, 7, 8], [1, 9], [1, 7, 7, 10, 11], [1, 9], [1, *range(12, 90)]]  # the last one is longer than the window
SEEDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A tiny model that rounds no inputs and knows nothing, as checkpoint and graph."""
    place = tmp_path_factory.mktemp("plain")
    folder = ternary_folder(place / "model", activation_bits=0)
    export_onnx(folder, place / "out", "cpu", tokens=20)
    return load_model(folder), load_graph(place / "out")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An agent with tools and thoughts that knows a few dialogues by heart: checkpoint and export."""
    place = tmp_path_factory.mktemp("agent")
    folder = agent_folder(place / "model")
    AgentDesign(samples=3, temperature=0.4, calculated="in turn", checks={"quoted": "doubt"}).save(folder)
    export_onnx(folder, place / "out", "cpu", tokens=20)
    return folder, place / "out"


@pytest.fixture(scope="module")
def agents(folders):
    folder, out = folders
    return (*load_model(folder), Toolbox.load(folder)), (*load_graph(out), Toolbox.load(out))


def test_tokens_are_the_same_greedy_and_drawn(plain):
    (model, tokenizer), (graph, same) = plain
    for prompt in PROMPTS:
        for options in ({}, {"temperature": 1.0, "seed": 7}, {"temperature": 0.7, "top_p": 0.8}):
            wanted = list(generate_tokens(model, tokenizer, prompt, max_tokens=30, **options))
            assert list(generate_tokens(graph, same, prompt, max_tokens=30, **options)) == wanted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_are_the_same_greedy_and_drawn(plain, temperature):
    (model, tokenizer), (graph, same) = plain
    options = {"temperature": temperature, "seeds": SEEDS if temperature else None}
    wanted = generate_rows(model, tokenizer, PROMPTS, 20, **options)
    assert generate_rows(graph, same, PROMPTS, 20, **options) == wanted
    assert wanted[1] == wanted[3]


def test_rows_leave_and_stand_for_others(plain):
    (_, tokenizer), (graph, _) = plain
    alone = [list(generate_tokens(graph, tokenizer, prompt, max_tokens=12, stop_ids=())) for prompt in PROMPTS]
    stop = {tokens[3] for tokens in alone[:3]}  # rows end at different times
    wanted = [list(generate_tokens(graph, tokenizer, prompt, max_tokens=12, stop_ids=stop)) for prompt in PROMPTS]
    assert len({len(tokens) for tokens in wanted}) > 1
    assert generate_rows(graph, tokenizer, PROMPTS, 12, stop_ids=stop) == wanted


def test_a_cache_keeps_each_rows_past(plain):
    _, (graph, _) = plain
    cache = graph.make_cache()
    ids = torch.tensor([[0, 0, 7], [5, 6, 8]])
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    first = graph(ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
    alone = graph(torch.tensor([[7]]), past_key_values=graph.make_cache()).logits
    assert first.shape == (2, 1, 300)
    assert torch.equal(first[0], alone[0])  # padding is not read
    cache.batch_select_indices(torch.tensor([1, 1, 0]))
    more = graph(torch.tensor([[9], [4], [9]]), past_key_values=cache).logits
    for row, tokens in zip(more, ([5, 6, 8, 9], [5, 6, 8, 4], [7, 9]), strict=True):
        whole = graph(torch.tensor([tokens]), past_key_values=graph.make_cache()).logits[0]
        torch.testing.assert_close(row, whole, rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="the cache has 3 rows, and tokens were given for 1"):
        graph(torch.tensor([[9]]), past_key_values=cache)
    with pytest.raises(ValueError, match="only the logits of the next token"):
        graph(torch.tensor([[9]]), past_key_values=cache, logits_to_keep=0)


def said(transcript):
    return [(turn.kind, turn.text, turn.ok) for turn in transcript.turns], transcript.num_tokens, transcript.stopped


def test_the_loop_calls_the_same_tools(agents):
    here, there = agents
    for question in [*DIALOGUES, CHAIN[0]]:
        messages = [{"role": "user", "content": question}]
        assert said(converse(*there, messages)) == said(converse(*here, messages))
    assert [said(each) for each in converse_all(*there, QUESTIONS)] == [
        said(each) for each in converse_all(*here, QUESTIONS)
    ]


@pytest.mark.parametrize(
    "design",
    [
        AgentDesign(think="on", thought_budget=12),
        AgentDesign(samples=4, temperature=0.8, checks={"quoted": "reject"}, enough=2.0),
        AgentDesign(tools="after", samples=3, temperature=0.5, calculated="in turn", think="on", thought_budget=12),
    ],
)
def test_a_design_is_carried_out_alike(agents, design):
    found = [answer(*each, design, list(DIALOGUES), seed=5, max_tokens=24) for each in agents]
    here, there = [[(said(one.transcript), one.num_attempts, one.is_blank) for one in each] for each in found]
    assert there == here


def test_chat_and_generate_run_an_export(forge, folders):
    asked = "".join(f"{question}\n" for question in DIALOGUES)
    for options in ((), ("--no-design", "--show-thoughts"), ("--no-design", "--no-tools", "--temperature", "0.5")):
        here, there = (forge("chat", each, *options, stdin=asked) for each in folders)
        assert there.code == 0, there.err
        assert there.out == here.out
    here, there = (forge("generate", each, "--prompt", CHAIN[0], "--json").json() for each in folders)
    for row in (here, there):
        for turn in row["turns"]:
            turn.pop("seconds", None)
    assert there == here
    assert there["text"] == CHAIN[2]


def test_what_needs_more_than_the_next_token_says_so(forge, folders, tmp_path):
    (tmp_path / "text.txt").write_text("A fox and an owl live by the mill.")
    _, out = folders
    for command in (
        ("eval", out, "--data", tmp_path / "text.txt"), ("export", out, "--to", "hf", "--out", tmp_path / "hf"),
        ("compress", out, "--out", tmp_path / "a.forge"), ("edge", "bench", out, "--onnx", out),
        ("chat", out, "--folder", tmp_path, "--retrieval", "embedding"),
    ):  # fmt: skip
        refused = forge(*command, stdin="Where is the fox?\n")
        assert refused.code in (2, 4), command
        assert "ONNX" in refused.sentence()


def test_a_window_or_a_depth_of_a_design_is_refused(plain, tmp_path):
    _, (graph, tokenizer) = plain
    folder = ternary_folder(tmp_path / "model", activation_bits=0)
    for design in (AgentDesign(window=8), AgentDesign(routes={"sum": AgentDesign(recursion_steps=2)})):
        design.save(folder)
        with pytest.raises(HandoffError, match="a graph has one that is fixed when it is written"):
            export_onnx(folder, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="the design sets sliding_window, and this model"):
        answer(graph, tokenizer, None, AgentDesign(window=8), ["What is 1 plus 2?"])


def test_learned_positions_bound_a_conversation(plain, tmp_path):
    _, (graph, _) = plain
    assert graph.config.n_positions is None
    folder = graph.session.folder
    config = json.loads((folder / "config.json").read_text())
    copied = tmp_path / "out"
    copied.mkdir()
    for name in ("model.onnx", "onnx.json"):
        (copied / name).write_bytes((folder / name).read_bytes())
    (copied / "config.json").write_text(json.dumps({**config, "n_positions": 40}))
    assert GraphModel(copied, threads=1).config.n_positions == 40
