"""`agent-forge edge bench` on a tiny agent, every form in a process of its own."""

from __future__ import annotations

import pytest
import torch

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear, freeze
from agent_forge.model.ternary_checkpoint import save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.speed import JOINED, ONNX, TORCH


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = train_tokenizer(["Ann has 3 red apples and eats 2 of them."] * 4, 280)
    model = CognateForCausalLM(
        CognateConfig(
            vocab_size=280,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=2,
            short_convolution=2,
            zero_init_output=False,
        )
    ).eval()
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout())
    freeze(model)
    folder = tmp_path_factory.mktemp("agent")
    save_ternary(model, tokenizer, folder, select(model, tokenizer), {})
    return folder


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
