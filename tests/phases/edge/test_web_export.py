"""What is asked of a machine, a model and a folder before a page is written."""

import io
import json
import tarfile

import pytest
from tests.phases.edge.onnx_models import cognate, plain_folder

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.kinds import tool_row
from agent_forge.agent.toolbox import Toolbox
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.edge.web_export import MODULES, PAGE, describe, examples, export_web, questions
from agent_forge.phases.edge.web_runtime import PACKAGE, VERSION, need_node, runtime_archive


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """An empty folder of programs, and nothing else on the path; gives a maker of scripts in it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def script(name, *lines):
        (folder / name).write_text("\n".join(["#!/bin/sh", *lines, ""]))
        (folder / name).chmod(0o755)

    return script


def test_without_npm_the_sentence_says_what_to_do(programs, tmp_path):
    with pytest.raises(ConfigError, match=r"npm was not found; --to web fetches onnxruntime-web .* install Node.js"):
        runtime_archive(tmp_path / "cache")


def test_without_node_nothing_is_begun(programs, tmp_path):
    with pytest.raises(ConfigError, match="node was not found"):
        need_node()
    with pytest.raises(ConfigError, match="node was not found"):
        export_web(tmp_path / "no-model", tmp_path / "page")
    assert not (tmp_path / "page").exists()


def test_without_a_network_npm_is_quoted(programs, tmp_path):
    programs("npm", "echo 'code ENOTFOUND' >&2", "exit 1")
    with pytest.raises(ConfigError, match=r"is there a network\? npm said: code ENOTFOUND"):
        runtime_archive(tmp_path / "cache")


def test_another_package_under_the_same_name_is_refused(programs, tmp_path):
    with tarfile.open(tmp_path / "other.tgz", "w:gz") as archive:
        content = b"alert(1)"
        row = tarfile.TarInfo("package/dist/ort.wasm.bundle.min.mjs")
        row.size = len(content)
        archive.addfile(row, io.BytesIO(content))
    programs("npm", f"/bin/cp {tmp_path / 'other.tgz'} {PACKAGE}-{VERSION}.tgz")
    with pytest.raises(ConfigError, match="its sha512 differs"):
        runtime_archive(tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.tgz"))


def test_a_damaged_archive_in_the_cache_is_fetched_again(programs, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{PACKAGE}-{VERSION}.tgz").write_bytes(b"half of it")
    with pytest.raises(ConfigError, match="npm was not found"):
        runtime_archive(tmp_path / "cache")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        export_web(tmp_path / "model", tmp_path / "page")
    assert (tmp_path / "page" / "mine.txt").read_text() == "mine"


def test_a_bare_model_is_described_without_tools(tmp_path):
    folder = plain_folder(tmp_path / "model")
    model, _ = load_model(folder)
    told = describe(model, folder, AgentDesign(), None)
    assert told["summary"].startswith("A language model of ")
    assert dict(told["card"])["Tools"] == "none"
    assert examples(None) == []


def test_tools_that_need_a_process_or_a_folder_are_named(tmp_path):
    rows = [tool_row(kind) for kind in ("calculator", "python", "retrieve")]
    toolbox = Toolbox.from_json(json.dumps({"format": 1, "tools": rows}))
    card = dict(describe(cognate(), tmp_path, AgentDesign(), toolbox)["card"])
    assert (card["Tools"], card["Not in a page"]) == ("calculator", "python, retrieve")
    assert examples(toolbox) == ["What is 17 + 25?"]


def test_the_page_says_how_it_goes_about_a_question(tmp_path):
    assert "Design" not in dict(describe(cognate(), tmp_path, AgentDesign(), None)["card"])
    card = dict(describe(cognate(), tmp_path, AgentDesign(samples=5, temperature=0.7, pruning="half"), None)["card"])
    assert (card["Design"], card["Not in a page"]) == ("up to 5 attempts and a vote", "pruning")


def test_page_and_model_are_asked_what_the_model_practised():
    practice = {"seed": 3, "strategies": ["view", "doubt"]}
    asked, plain = questions(None, practice), questions(None, None)
    assert len(asked) == len(plain) + 2 == len(set(asked))
    assert asked == questions(None, practice)


def test_every_module_of_the_page_is_exported_and_short():
    found = {path.name: path.read_text(encoding="utf-8") for path in PAGE.iterdir()}
    assert {*MODULES, "check.mjs"} == set(found)
    for name, text in found.items():
        assert text.count("\n") <= 400, name
        assert max(map(len, text.splitlines())) <= 120, name
        assert "innerHTML" not in text, f"{name}: what a model says is text, not markup"
