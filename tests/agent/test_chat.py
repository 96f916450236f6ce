"""The command line with an agent that has tools: from a folder, a file, a session; and what it writes down."""

from __future__ import annotations

import io
import json
import shutil

import pytest
from tests.agent.dialogues import DIALOGUES, PLAIN, RECORDS

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, fit_dispatcher, question_features
from agent_forge.agent.kinds import Resources, make_tool, tool_row, world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.toolbox import Toolbox
from agent_forge.cli.chat import chat
from agent_forge.errors import ArtifactCorrupt, ConfigError
from agent_forge.model.checkpoint import save_model
from agent_forge.model.expert_vectors import Expert, basis_of, identity, save_experts
from agent_forge.phases.compression import codecs, forge_file
from agent_forge.phases.compression.attachments import attached, attachments
from agent_forge.phases.compression.plain import compress_bytes
from agent_forge.pipeline.resolve import load_design, load_toolbox
from agent_forge.pipeline.talk import Talk
from agent_forge.storage.home import Home

SUM = "What is 17 + 25?"


@pytest.fixture(scope="module")
def folder(agent, tokenizer, tmp_path_factory):
    """A checkpoint folder with tools."""
    place = tmp_path_factory.mktemp("agent")
    save_model(agent, tokenizer, place)
    world_toolbox(Knowledge(RECORDS)).save(place)
    return place


@pytest.fixture(scope="module")
def file(agent, tokenizer, folder, tmp_path_factory):
    """The same agent as one `.forge` file."""
    path = tmp_path_factory.mktemp("file") / "agent.forge"
    forge_file.write(path, packed(agent, attached(folder)), tokenizer)
    return path


def packed(agent, extra):
    """The agent in half precision, with what travels along."""
    tensors, tied = forge_file.stored_tensors(agent)
    encoded = {name: codecs.encode(tensor, "plain/fp16") for name, tensor in tensors.items()}
    return forge_file.Compressed(forge_file.config_of(agent), encoded, tied, {}, extra=extra)


def test_calls_and_results_are_shown(forge, folder):
    answer = forge("chat", folder, stdin=f"{SUM}\nSay fox.\nWhat is 1 / 0?\n")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines() == [
        "→ calculator(17 + 25)", "← 42", "It is 42.",
        "fox",
        "→ calculator(1 / 0)", "← error: division by zero", "It has no value.",
    ]  # fmt: skip


def test_without_tools_nothing_is_run(forge, folder):
    assert forge("chat", folder, "--no-tools", stdin=f"{SUM}\n").out == "calculator(17 + 25)\n"


def test_as_json(forge, folder):
    answer = forge("chat", folder, "--json", stdin=f"{SUM}\nGreet me.\n")
    rows = [json.loads(line) for line in answer.out.splitlines()]
    assert [row["question"] for row in rows] == [SUM, "Greet me."]
    assert [turn["kind"] for turn in rows[0]["turns"]] == ["call", "result", "answer"]
    assert rows[1]["answer"] == PLAIN["Greet me."]
    row = forge("generate", folder, "--prompt", SUM, "--json").json()
    assert row["text"] == "It is 42."
    assert [turn["text"] for turn in row["turns"]] == ["calculator(17 + 25)", "42", "It is 42."]
    bare = forge("generate", folder, "--prompt", "Say", "--max-tokens", "3", "--json").json()
    assert set(bare) == {"prompt", "text", "seed", "stopped", "turns"}


class Terminal(io.StringIO):
    """Standard input as a person has it."""

    def isatty(self):
        return True


def test_at_a_terminal_the_tools_are_named(folder, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", Terminal(f"{SUM}\n\n"))
    chat(None, str(folder))  # the context is asked only of an agent with a design
    assert capsys.readouterr().out.splitlines() == [
        "Tools: calculator, lookup, search, clock.", "Type a question; an empty line ends.",
        "you> → calculator(17 + 25)", "← 42", "It is 42.", "you> ",
    ]  # fmt: skip


def test_tools_travel_in_the_file(forge, file, folder):
    assert attachments(file) == {name: (folder / name).read_bytes() for name in ("tools.json", "knowledge.json")}
    box, original = load_toolbox(file), load_toolbox(folder)
    assert box is not None
    assert original is not None
    assert box.files() == original.files()
    answer = forge("chat", file, "--json", stdin="Where does Ada Vane live?\n").json()
    call = next(turn["text"] for turn in answer["turns"] if turn["kind"] == "call")
    assert call == DIALOGUES["Where does Ada Vane live?"][0], "the compressed agent still calls its tool"


def test_an_export_keeps_the_tools(forge, file, folder, tmp_path):
    answer = forge("export", file, "--to", "hf", "--out", tmp_path / "hf")
    assert answer.code == 0, answer.err
    for name in ("tools.json", "knowledge.json"):
        assert (tmp_path / "hf" / name).read_bytes() == (folder / name).read_bytes()


def test_attachments_count_in_the_size_and_are_covered_by_digests(agent, tokenizer, folder, tmp_path):
    small = forge_file.write(tmp_path / "bare.forge", packed(agent, {}), tokenizer)
    large = forge_file.write(tmp_path / "full.forge", packed(agent, attached(folder)), tokenizer)
    assert large - small >= sum(map(len, attached(folder).values()))
    assert load_toolbox(tmp_path / "bare.forge") is None
    assert attachments(tmp_path / "bare.forge") == {}
    damaged = bytearray((tmp_path / "full.forge").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "full.forge").write_bytes(damaged)
    with pytest.raises(ArtifactCorrupt, match="extra/file/tools.json"):
        load_toolbox(tmp_path / "full.forge")


def test_an_attachment_that_is_no_manifest(agent, tokenizer, tmp_path):

    for content, why in ((b"no zstd", "extra/file/tools.json"), (compress_bytes(b"{"), "is not JSON")):
        forge_file.write(tmp_path / "odd.forge", packed(agent, {"file/tools.json": content}), tokenizer)
        with pytest.raises(ArtifactCorrupt, match=why):
            load_toolbox(tmp_path / "odd.forge")


@pytest.fixture
def home(folder, tmp_path):
    """A home with one session whose model is the agent."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with Home.open(tmp_path / "home") as opened:
        opened.registry.create_session("talker", {})
        run = opened.registry.begin_phase_run("talker", "baking", "f" * 64)
        artifact = opened.blobs.put_folder("checkpoint", copy, {}, "copy")
        opened.registry.commit_phase_run(run, {"model": [artifact]})
    return tmp_path / "home", artifact.digest


def test_calls_of_a_session_are_events(forge, home):
    place, digest = home
    forge("chat", "talker", "--home", place, stdin=f"{SUM}\nWhat is 1 / 0?\nSay fox.\n")
    forge("chat", digest[:12], "--home", place, stdin=f"{SUM}\n")
    with Home.open(place, create=False) as opened:
        rows = [event for event in opened.registry.events() if event.kind == "tool_call"]
    assert [(row.session, row.payload["tool"], row.payload["ok"]) for row in rows] == [
        ("talker", "calculator", True),
        ("talker", "calculator", False),
        (None, "calculator", True),
    ]
    assert rows[0].payload["result_bytes"] == 2
    assert {row.payload["model"] for row in rows} == {digest}
    assert rows[0].payload["arguments_sha256"] == rows[2].payload["arguments_sha256"]
    assert "17 + 25" not in json.dumps([row.payload for row in rows]), "what users say stays theirs"


def test_outside_a_home_nothing_is_written(forge, folder, tmp_path):
    assert forge("chat", folder, "--home", tmp_path / "none", stdin=f"{SUM}\n").code == 0
    assert not (tmp_path / "none").exists()


def test_a_folder_of_texts_for_an_agent_without_a_tool_for_it(folder, tmp_path):
    (tmp_path / "note.txt").write_text("The fox lives below the mill.")
    talk = Talk.start(str(folder), tmp_path, {"max_tokens": 20}, folder=tmp_path)
    assert talk.retriever is not None
    plain = Talk.start(str(folder), tmp_path, {"max_tokens": 20})
    found = plain.ask("The fox lives below the mill.\nWhere is the fox?")
    assert _said(talk.ask("Where is the fox?")) == _said(found)
    assert _said(talk.ask("Say whale.")) == _said(plain.ask("Say whale.")), "nothing was found for it"


def _said(transcript):
    """Its turns, without the seconds that they took."""
    return [(turn.kind, turn.text, turn.ok) for turn in transcript.turns]


def test_a_folder_of_texts_for_a_tool(agent, tokenizer, folder, tmp_path, forge):
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    Toolbox([make_tool(tool_row("retrieve"), Resources())]).save(own)
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "note.md").write_text("The fox lives below the mill.")
    talk = Talk.start(str(own), tmp_path, {}, folder=tmp_path / "texts")
    assert talk.retriever is None
    (tool,) = talk.tools()
    assert tool.run({"question": "fox"}) == "The fox lives below the mill."
    with pytest.raises(ConfigError, match="retrieval 'magic'"):
        Talk.start(str(own), tmp_path, {}, retrieval="magic")
    answer = forge("chat", own, "--folder", tmp_path / "nowhere", stdin="x\n")
    assert answer.code == 2
    assert "is no folder" in answer.sentence()


def test_each_question_stands_alone_unless_asked_for(folder, tmp_path):
    talk = Talk.start(str(folder), tmp_path, {})
    first = talk.ask("Say fox.").to_json()
    assert talk.ask("Say fox.").to_json() == first
    assert talk.memory == []
    talk.ask("Say fox.", remember=True)
    assert talk.memory == [{"role": "user", "content": "Say fox."}, {"role": "assistant", "content": "fox"}]
    again = talk.ask("Greet me.", remember=True)
    assert [message["role"] for message in talk.memory] == ["user", "assistant"] * 2
    assert talk.memory[-1]["content"] == again.answer


def test_a_manifest_that_cannot_be_stops_with_a_sentence(forge, folder, tmp_path):
    own = tmp_path / "own"
    shutil.copytree(folder, own)
    (own / "tools.json").write_text('{"format": 1, "tools": [')
    answer = forge("chat", own, stdin="x\n")
    assert answer.code == 5
    assert "tools.json is not JSON" in answer.sentence()


def test_a_wrong_thought_option(forge, folder):
    answer = forge("chat", folder, "--think", "maybe", stdin="x\n")
    assert answer.code == 2
    assert "not one of auto, on, off" in answer.err


def test_a_design_is_used_unless_it_is_not_wanted(forge, folder, tmp_path):
    designed = tmp_path / "designed"
    shutil.copytree(folder, designed)
    AgentDesign(tools="never").save(designed)
    assert forge("chat", designed, stdin=f"{SUM}\n").out == "calculator(17 + 25)\n"
    assert forge("chat", designed, "--no-design", stdin=f"{SUM}\n").out.splitlines()[-1] == "It is 42."
    AgentDesign(samples=3, temperature=0.2, checks={"quoted": "reject"}, enough=2.0).save(designed)
    row = json.loads(forge("generate", designed, "--prompt", SUM, "--json").out)
    plain = json.loads(forge("generate", folder, "--prompt", SUM, "--json").out)
    assert (row["text"], [turn["kind"] for turn in row["turns"]]) == ("It is 42.", ["call", "result", "answer"])
    talk = Talk.start(str(designed), tmp_path, {"max_tokens": 40, "seed": 1})
    found = talk.ask(SUM, remember=True)
    assert found.num_tokens == 2 * talk_tokens(folder, tmp_path)
    assert talk.memory[-1]["content"] == plain["text"] == "It is 42."


def talk_tokens(folder, home):
    return Talk.start(str(folder), home, {"max_tokens": 40}).ask(SUM).num_tokens


def test_options_that_the_design_decides_on_are_not_silently_ignored(forge, folder, tmp_path):
    designed = tmp_path / "designed"
    shutil.copytree(folder, designed)
    AgentDesign().save(designed)
    refused = forge("chat", designed, "--temperature", "1.5", "--think-budget", "3", stdin=f"{SUM}\n")
    assert refused.code == 2
    assert "decides on --temperature, --think-budget; add --no-design" in refused.sentence()
    asked = ("generate", designed, "--prompt", SUM, "--json", "--think", "off")
    assert "decides on --think; add --no-design" in forge(*asked).sentence()
    assert forge(*asked, "--no-design").code == 0
    assert forge("chat", designed, "--seed", "2", stdin=f"{SUM}\n").code == 0


def test_a_design_travels_in_the_file(agent, tokenizer, folder, forge, tmp_path):
    designed = tmp_path / "designed"
    shutil.copytree(folder, designed)
    AgentDesign(tools="never").save(designed)
    path = tmp_path / "agent.forge"
    forge_file.write(path, packed(agent, attached(designed)), tokenizer)
    assert load_design(path) == AgentDesign(tools="never")
    assert forge("chat", path, stdin=f"{SUM}\n").out == "calculator(17 + 25)\n"


@pytest.fixture
def routed(agent, tokenizer, folder, tmp_path):
    """Sums without tools; everything else as it comes."""
    place = tmp_path / "routed"
    shutil.copytree(folder, place)
    AgentDesign(routes={"sum": AgentDesign(tools="never")}).save(place)
    asked = {BASE: ["Say fox.", "Greet me."], "sum": ["What is 17 + 25?", "What is 3 + 44?"]}
    fit_dispatcher({name: question_features(agent, tokenizer, each) for name, each in asked.items()}).save(place)
    return place


def test_routes_are_followed_and_travel_in_the_file(agent, tokenizer, routed, forge, tmp_path):
    path = tmp_path / "agent.forge"
    forge_file.write(path, packed(agent, attached(routed)), tokenizer)
    for place in (routed, path):
        said = forge("chat", place, stdin=f"{SUM}\nSay fox.\n").out.splitlines()
        assert said[-2:] == ["calculator(17 + 25)", "fox"]
        row = json.loads(forge("generate", place, "--prompt", SUM, "--json").out)
        assert row["text"] == "calculator(17 + 25)"
        assert forge("chat", place, "--no-design", stdin=f"{SUM}\n").out.splitlines()[-1] == "It is 42."


def test_routes_without_their_classifier_are_refused(agent, tokenizer, routed, forge, tmp_path):
    (routed / "routes.safetensors").unlink()
    path = tmp_path / "agent.forge"
    forge_file.write(path, packed(agent, attached(routed)), tokenizer)
    for place in (routed, path):
        answer = forge("chat", place, stdin=f"{SUM}\n")
        assert answer.code != 0
        assert "has routes, and routes.safetensors" in answer.sentence()
        assert "--no-design does without" in answer.sentence()
        assert forge("chat", place, "--no-design", stdin=f"{SUM}\n").code == 0


def test_each_route_has_its_experts(agent, routed, tmp_path):
    basis = basis_of(agent, 4)
    same = identity(basis, "same")
    loud = Expert("loud", {name: z * -4 for name, z in same.vectors.items()}, same.base)
    save_experts(routed, [same, loud], basis)
    AgentDesign(experts={"same": 1.0}, routes={"sum": AgentDesign(experts={"loud": 1.0})}).save(routed)
    talk = Talk.start(str(routed), tmp_path, {"max_tokens": 20})
    assert talk.ask("Say fox.").answer == "fox"
    assert talk.ask(SUM).answer != "It is 42."
    assert talk.ask("Say fox.").answer == "fox"
    assert not any(module._forward_hooks for module in talk.model.modules())


@pytest.mark.parametrize(
    "text", ["{", '{"format": 1, "code": "import os"}', '{"format": 1, "experts": {"ghost": 1.0}}']
)
def test_a_design_that_cannot_be_used_is_told(forge, folder, tmp_path, text):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "agent.json").write_text(text, encoding="utf-8")
    answer = forge("chat", broken, stdin=f"{SUM}\n")
    assert answer.code != 0
    assert ("ghost" if "ghost" in text else "agent.json") in answer.sentence()
    assert forge("chat", broken, "--no-design", stdin=f"{SUM}\n").code == 0


def test_the_experts_of_a_design_are_put_on_and_taken_off(agent, folder, tmp_path):
    designed = tmp_path / "designed"
    shutil.copytree(folder, designed)
    basis = basis_of(agent, 4)
    same = identity(basis, "same")
    loud = Expert("loud", {name: z * -4 for name, z in same.vectors.items()}, same.base)
    save_experts(designed, [same, loud], basis)
    said = {}
    for name in ("same", "loud"):
        AgentDesign(experts={name: 1.0}).save(designed)
        talk = Talk.start(str(designed), tmp_path, {"max_tokens": 20})
        said[name] = talk.ask(SUM).answer
        assert not any(module._forward_hooks for module in talk.model.modules())
    assert said["same"] == "It is 42."
    assert said["loud"] != said["same"]
