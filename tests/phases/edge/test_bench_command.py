"""`agent-forge edge bench` on a tiny agent, every form in a process of its own."""

from __future__ import annotations

import pytest

from agent_forge.model.checkpoint import load_model
from agent_forge.phases.compression import codecs, forge_file
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.speed import JOINED, ONNX, TORCH, shipped_bytes


@pytest.fixture(scope="module")
def exported(agent, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "export"
    export_onnx(agent, out, "cpu")
    return out


def test_of_a_file_its_own_bytes_are_told(agent, exported, forge, tmp_path):
    model, tokenizer = load_model(agent)
    tensors, tied = forge_file.stored_tensors(model)
    encoded = {name: codecs.encode(tensor, "plain/fp16") for name, tensor in tensors.items()}
    path = tmp_path / "agent.forge"
    forge_file.write(path, forge_file.Compressed(forge_file.config_of(model), encoded, tied, {}), tokenizer)
    options = ["--tokens", 1, "--repeats", 1, "--threads", 1, "--onnx", exported, "--json"]
    torch_form, joined, onnx = forge("edge", "bench", path, *options).json()["measured"]
    assert torch_form["size_bytes"] == joined["size_bytes"] == path.stat().st_size
    assert onnx["size_bytes"] == shipped_bytes(exported)


def test_the_command_prints_figures_and_targets(agent, exported, forge):
    options = ["--target", "cpu-arm64", "--tokens", 2, "--repeats", 1, "--threads", 1, "--onnx", exported]
    found = forge("edge", "bench", agent, *options, "--json")
    assert found.code == 0, found.err
    told = found.json()
    assert [speed["runtime"] for speed in told["measured"]] == [TORCH, JOINED, ONNX]
    assert told["measured"][2]["memory_bytes"] < told["measured"][0]["memory_bytes"]
    assert [each["target"] for each in told["targets"]] == ["cpu-arm64"]
    assert {verdict["metric"] for verdict in told["targets"][0]["verdicts"]} == {
        "first_token_seconds", "tokens_per_second", "memory_bytes", "size_bytes",
    }  # fmt: skip


def test_of_an_export_the_graph_alone_is_measured(exported, forge):
    found = forge("edge", "bench", exported, "--tokens", 2, "--repeats", 1, "--threads", 1, "--json")
    assert found.code == 0, found.err
    told = found.json()
    assert [speed["runtime"] for speed in told["measured"]] == [ONNX]
    assert {each["target"] for each in told["targets"]} == {"cpu-x86", "cpu-arm64", "browser"}
    refused = forge("edge", "bench", exported, "--target", "gpu-6gb", "--tokens", 2, "--repeats", 1)
    assert "operations were not counted" in refused.sentence()
