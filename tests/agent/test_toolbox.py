"""Tools as a manifest, as results, as other programs see them; and the world's tools against the world."""

import json

import pytest
from tests.agent.dialogues import RECORDS

from agent_forge.agent.calls import Call, parse_call
from agent_forge.agent.embeddings import embedder
from agent_forge.agent.kinds import KINDS, Resources, make_tool, tool_row, world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.schema import ToolError, object_schema
from agent_forge.agent.toolbox import MAX_RESULT_CHARACTERS, Tool, Toolbox
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.synthetic_world.tools import TOOLS, tool_question
from agent_forge.data.world_knowledge import corpus_records, world_records, write_knowledge
from agent_forge.errors import ArtifactCorrupt, ConfigError, DataError


@pytest.mark.parametrize("levels", [(1, 2, 3), (5,), (10,)])
def test_the_tools_give_what_the_world_says(levels):
    """Every call in every dialogue of the world has the result that stands there."""
    toolbox = world_toolbox(Knowledge(world_records(3, max(levels))))
    checked = 0
    for number in range(300):
        turns = tool_question(3, number, levels[number % len(levels)], world=3).document.turns
        for (_, said), (_, heard) in zip(turns[1::2], turns[2::2], strict=False):
            call = parse_call(said)
            assert call is not None
            assert toolbox.call(call).turn() == heard, said
            checked += 1
    assert checked > 200


def test_the_prompt_is_the_one_of_the_world():
    assert world_toolbox(Knowledge({})).prompt() == f"Tools: {'; '.join(TOOLS.values())}."


@pytest.mark.parametrize(
    ("call", "text", "ok"),
    [
        (Call("lookup", "Town, ada  VANE"), "Aldale", True),
        (Call("lookup", "town, Nobody Here"), "nothing is known about Nobody Here", False),
        (Call("lookup", "shoe, Ada Vane"), "shoe is not known of Ada Vane; known are town, trade, born, friend", False),
        (Call("search", "trade, baker"), "Ada Vane, Cy Dor", True),
        (Call("search", "trade, king"), "nobody", True),
        (Call("search", "shoe, red"), "no record has an attribute shoe", False),
        (Call("clock", "23, 2"), "1", True),
        (Call("clock", "25, 2"), "hour must be at most 23, not 25", False),
        (Call("calculator", "1 / 0"), "division by zero", False),
        (Call("rocket", "go"), "there is no tool 'rocket'; there are calculator, lookup, search, clock", False),
    ],
)
def test_results(toolbox, call, text, ok):
    result = toolbox.call(call)
    assert (result.text, result.ok) == (text, ok)
    assert result.turn() == ("result: " if ok else "result: error: ") + text


def test_search_stops_at_its_limits():
    records = {f"P{n}": {"trade": "baker"} for n in range(50)}
    assert Knowledge(records).search("trade", "baker", limit=2) == ["P0", "P1"]
    assert Knowledge(records | {"Z": {"trade": "cook"}}).search("trade", "cook", within=40) == []


def test_a_manifest_reads_back(tmp_path, toolbox):
    toolbox.save(tmp_path)
    read = Toolbox.load(tmp_path)
    assert read is not None
    assert read.files() == toolbox.files()
    assert read.call(Call("lookup", "town, Bo Lock")).text == "Belmere"
    assert Toolbox.load(tmp_path / "elsewhere") is None
    first, again = tmp_path / "tools.json", tmp_path / "again"
    again.mkdir()
    read.save(again)
    assert (again / "tools.json").read_bytes() == first.read_bytes()


def test_without_its_index_a_lookup_is_disabled(tmp_path, toolbox):
    toolbox.save(tmp_path)
    (tmp_path / "knowledge.json").unlink()
    read = Toolbox.load(tmp_path)
    assert read is not None
    result = read.call(Call("lookup", "town, Ada Vane"))
    assert (result.ok, result.text) == (False, "this tool has no index to read")
    assert read.call(Call("calculator", "1 + 1")).text == "2"
    assert {tool["name"] for tool in read.to_mcp()["tools"]} == {"calculator", "clock"}


def test_as_the_model_context_protocol_has_it(toolbox):
    listed = toolbox.to_mcp()["tools"]
    assert [tool["name"] for tool in listed] == list(TOOLS)
    assert all(set(tool) == {"name", "description", "inputSchema"} for tool in listed)
    assert all(tool["inputSchema"]["type"] == "object" for tool in listed)
    json.dumps(listed)
    done = toolbox.call_mcp({"name": "clock", "arguments": {"hour": 22, "later": 5}})
    assert done == {"content": [{"type": "text", "text": "3"}], "isError": False}
    wrong = toolbox.call_mcp({"name": "clock", "arguments": {"hour": "ten", "later": 5}})
    assert wrong == {"content": [{"type": "text", "text": "hour must be an integer, not ten"}], "isError": True}
    assert toolbox.call_mcp({"arguments": {}})["isError"]
    assert toolbox.call_mcp({"name": "clock", "arguments": [1, 2]})["isError"]


def test_every_call_is_told_to_the_audit():
    heard = []
    toolbox = world_toolbox(Knowledge(RECORDS), audit=lambda *row: heard.append(row))
    toolbox.call(Call("clock", "1, 2"))
    toolbox.call(Call("clock", "one"))
    toolbox.call_json("rocket", {"to": "moon"})
    assert [(name, arguments, result.ok) for name, arguments, result in heard] == [
        ("clock", {"hour": 1, "later": 2}, True),
        ("clock", "one", False),
        ("rocket", {"to": "moon"}, False),
    ]
    assert all(result.seconds >= 0 for _, _, result in heard)


def test_some_of_the_tools(toolbox):
    few = toolbox.only(["clock"])
    assert "clock" in few
    assert "lookup" not in few
    assert len(few) == 1
    with pytest.raises(ConfigError, match="no tool 'rocket'"):
        toolbox.only(["rocket"])


def test_a_long_result_is_cut():
    schema = object_schema()
    long = Toolbox([Tool("long", "says much", schema, "x", run=lambda given: "a" * 5000)])
    text = long.call(Call("long", "")).text
    assert text.endswith("… (5000 characters)")
    assert len(text) < MAX_RESULT_CHARACTERS + 40


def test_a_fault_of_our_own_is_not_hidden():
    def broken(given):
        raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        Toolbox([Tool("t", "breaks", object_schema(), "x", run=broken)]).call(Call("t", ""))


def test_a_folder_is_searched_by_the_tool(tmp_path, agent, tokenizer):
    (tmp_path / "fox.txt").write_text("The fox is red.\n\n" * 30 + "\n\nThe den is below the mill.")
    (tmp_path / "bear.txt").write_text("The bear is brown.")
    for settings in ({}, {"mode": "embedding", "results": 2}):
        rows = [tool_row("retrieve", **settings), tool_row("calculator")]
        manifest = json.dumps({"format": 1, "tools": rows})
        box = Toolbox.from_json(manifest, folder=tmp_path, embed=embedder(agent, tokenizer))
        result = box.call(Call("retrieve", "The bear is brown."))
        assert result.text.splitlines()[0] == "The bear is brown."
        assert result.notes == {"retrieval": settings.get("mode", "bm25")}
    none = Toolbox.from_json(json.dumps({"format": 1, "tools": [tool_row("retrieve")]}))
    assert none.call(Call("retrieve", "bear")).text == "this tool was given no folder of texts"
    bm25 = Toolbox.from_json(json.dumps({"format": 1, "tools": [tool_row("retrieve")]}), folder=tmp_path)
    assert bm25.call(Call("retrieve", "whale")).text == "no text is about that"
    blind = json.dumps({"format": 1, "tools": [tool_row("retrieve", mode="embedding")]})
    assert "needs the model" in Toolbox.from_json(blind, folder=tmp_path).call(Call("retrieve", "bear")).text
    with pytest.raises(ConfigError, match="modes bm25, embedding"):
        make_tool(tool_row("retrieve", mode="magic"))
    with pytest.raises(DataError, match="is no folder"):
        Toolbox.from_json(json.dumps({"format": 1, "tools": [tool_row("retrieve")]}), folder=tmp_path / "none")


def test_every_kind_has_a_row_of_its_own():
    tools = [make_tool(tool_row(kind), Resources(Knowledge({}))) for kind in KINDS]
    assert [tool.name for tool in Toolbox(tools).tools.values()] == list(KINDS)


@pytest.mark.parametrize(("cpu", "memory"), [(0, 256), (61, 256), (2, 8), (2, 4096)])
def test_a_manifest_cannot_ask_for_more_than_the_most(cpu, memory):
    with pytest.raises(ConfigError, match="a program may have"):
        make_tool(tool_row("python", cpu_seconds=cpu, memory_mib=memory))


ROW = {"name": "c", "description": "d", "inputSchema": object_schema(expression={"type": "string"}),
       "kind": "calculator", "settings": {}}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"kind": "rocket"}, "unknown kind 'rocket'"),
        ({"settings": {"speed": 1}}, "no setting 'speed'"),
        ({"inputSchema": object_schema(x={"type": "string"})}, "needs the arguments"),
        ({"kind": "search", "inputSchema": object_schema(a={"type": "string"}, b={"type": "string"}),
          "settings": {"limit": "many"}}, "must be like 3"),
    ],
)  # fmt: skip
def test_manifests_that_cannot_be(change, why):
    with pytest.raises(ConfigError, match=why):
        make_tool(ROW | change, Resources(Knowledge({})))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not JSON"),
        ("[]", "no list of tools"),
        ('{"tools": []}', "format None"),
        ('{"format": 1, "tools": [{"name": "c"}]}', "exactly"),
        (json.dumps({"format": 1, "tools": [ROW | {"kind": 1}]}), "must be text"),
    ],
)
def test_manifests_that_cannot_be_read(text, why):
    with pytest.raises(ArtifactCorrupt, match=why):
        Toolbox.from_json(text)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        '{"format": 2, "records": {}}',
        '{"format": 1, "records": {"a": 1}}',
        '{"format": 1, "records": {"a": {"b": 1}}}',
    ],
)
def test_an_index_that_cannot_be_read(text):
    with pytest.raises(ArtifactCorrupt):
        Knowledge.from_json(text, "knowledge.json")


def test_names(toolbox):
    for name in ("Calculator", "", "a b", "1a", "a" * 65):
        with pytest.raises(ConfigError, match="cannot be the name"):
            Toolbox([Tool(name, "", object_schema(), "x")])
    with pytest.raises(ConfigError, match="two tools"):
        Toolbox([Tool("a", "", object_schema(), "x")] * 2)


def test_the_index_of_a_corpus(tmp_path):
    ingest(["synthetic"], tmp_path / "corpus", synthetic_bytes=50_000, levels=(1, 2), seed=5)
    records = corpus_records(Corpus.open(tmp_path / "corpus"))
    assert records == world_records(5, 2)
    path = write_knowledge(tmp_path, records)
    assert Knowledge.from_json(path.read_bytes(), "knowledge.json").records == records
    assert path.read_text() == Knowledge(records).to_json()
    real = tmp_path / "real.txt"
    real.write_text(
        "\n\n".join(f"This is story number {n}. " + f"Somebody went to place {n * 7}. " * 9 for n in range(200))
    )
    ingest([str(real)], tmp_path / "other", seed=0)
    with pytest.raises(DataError, match="nobody to look up"):
        corpus_records(Corpus.open(tmp_path / "other"))


def test_an_error_is_for_the_model_only():
    assert not issubclass(ToolError, ConfigError)
