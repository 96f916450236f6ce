"""Failures of the page of phase 7, injected: files that are damaged on their way, and parts that do not fit."""

import gzip
import hashlib
import json
import shutil

import pytest
from tests.phases.edge.pages import ask_page

from agent_forge.phases.edge.web_export import FORMAT, MODULES, PAGE

NAME = "model.onnx.gz"


@pytest.fixture
def page(tmp_path):
    """A page up to where its files have been checked."""
    for name in MODULES:
        shutil.copyfile(PAGE / name, tmp_path / name)
    content = gzip.compress(b"a graph" * 1000, mtime=0)
    (tmp_path / NAME).write_bytes(content)
    row = {"name": NAME, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), "gzip": True}
    write(tmp_path, {"format": FORMAT, "loaded": [row], "runtime": {"module": "runtime.mjs", "binary": NAME}})
    (tmp_path / "runtime.mjs").write_text("throw new Error('the files were accepted');")
    return tmp_path


def write(page, told):
    (page / "page.json").write_text(json.dumps(told), encoding="utf-8")


def test_whole_files_are_accepted(page):
    with pytest.raises(ValueError, match="the files were accepted"):
        ask_page("open", page=str(page))


def test_a_host_that_unpacks_on_the_way_is_understood(page):
    (page / NAME).write_bytes(gzip.decompress((page / NAME).read_bytes()))
    with pytest.raises(ValueError, match="the files were accepted"):
        ask_page("open", page=str(page))


def test_a_download_that_was_cut_off_is_refused(page):
    content = (page / NAME).read_bytes()
    (page / NAME).write_bytes(content[:-5])
    with pytest.raises(ValueError, match=rf"cut off on its way.* \({len(content) - 5} bytes of {len(content)}\)"):
        ask_page("open", page=str(page))


def test_one_changed_byte_is_refused(page):
    content = bytearray((page / NAME).read_bytes())
    content[len(content) // 2] ^= 1
    (page / NAME).write_bytes(content)
    with pytest.raises(ValueError, match=f"{NAME} is not the file that was exported"):
        ask_page("open", page=str(page))


def test_a_page_of_a_later_format_is_refused(page):
    write(page, {"format": FORMAT + 1})
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}, this page reads {FORMAT}"):
        ask_page("open", page=str(page))


def test_a_manifest_of_another_graph_is_refused():
    states = [{"input": "past.0", "output": "present.0", "shape": [1, "past"], "dtype": "float32"}]
    with pytest.raises(ValueError, match=r"the graph has no past\.0, present\.0: its manifest is of another one"):
        ask_page("graph", inputs=["input_ids"], outputs=["logits"], manifest={"states": states})
