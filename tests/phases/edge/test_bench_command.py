"""`agent-forge edge bench` on a tiny agent, every form in a process of its own."""

from __future__ import annotations

import pytest

from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.speed import JOINED, ONNX, TORCH


@pytest.fixture(scope="module")
def exported(agent, tmp_path_factory):
    out = tmp_path_factory.mktemp("onnx") / "export"
    export_onnx(agent, out, "cpu")
    return out


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
