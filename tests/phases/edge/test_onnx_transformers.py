"""Models of other architectures as graphs."""

import json

import pytest
import torch
from tests.phases.edge.onnx_models import largest_difference, ternary_folder
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
)

from agent_forge.errors import HandoffError
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.phases.edge.export_onnx import step_of, write_graph
from agent_forge.phases.edge.onnx_session import OnnxSession

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SHAPE = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.2,
}  # fmt: skip
TOKENS = torch.randint(5, 300, (40,), generator=torch.Generator().manual_seed(2)).tolist()


def test_a_llama_with_ternary_layers(tmp_path):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE)).eval()
    for name in ("q_proj", "down_proj"):
        for layer in model.model.layers:
            linear = (layer.self_attn if name == "q_proj" else layer.mlp).get_submodule(name)
            TernaryLinear.from_linear(linear, Layout(), activation_bits=0).freeze()
    manifest = write_graph(model, tmp_path / "model.onnx", "web")
    (tmp_path / "onnx.json").write_text(json.dumps(manifest))
    session = OnnxSession(tmp_path, threads=1)
    for cuts in (range(1, 41), [20, 21, 40]):
        assert largest_difference(model, session, TOKENS, cuts) < 1e-4
    assert manifest["window"] is None


@pytest.mark.parametrize(
    ("config", "forgets"),
    [
        (MistralConfig(**SHAPE, sliding_window=8), 8),
        (Gemma2Config(**SHAPE, head_dim=8, sliding_window=8), None),
        (Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=8, max_window_layers=1), None),
    ],
)
def test_a_text_beyond_the_sliding_window(tmp_path, config, forgets):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    manifest = write_graph(model, tmp_path / "model.onnx", "cpu")
    (tmp_path / "onnx.json").write_text(json.dumps(manifest))
    session = OnnxSession(tmp_path, threads=1)
    for cuts in (range(1, 41), [20, 21, 40]):
        assert largest_difference(model, session, TOKENS, cuts) < 1e-4
    assert manifest["window"] == forgets


def test_gpt2_with_its_table_of_positions(tmp_path):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2)
    model = GPT2LMHeadModel(config).eval()
    (tmp_path / "onnx.json").write_text(json.dumps(write_graph(model, tmp_path / "model.onnx", "cpu")))
    assert largest_difference(model, OnnxSession(tmp_path, threads=1), TOKENS, [20, 21, 40]) < 1e-4


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Phi3Config(**SHAPE, sliding_window=8, pad_token_id=0), "phi3 has a sliding window"),
        (MambaConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1), "mamba has layers"),
    ],
)
def test_what_has_no_form_is_refused_with_a_sentence(config, said):
    with pytest.raises(HandoffError, match=said):
        step_of(AutoModelForCausalLM.from_config(config).eval(), "cpu")


def test_the_command_prints_the_parity(tmp_path, forge):
    folder = ternary_folder(tmp_path / "model", short_convolution=0)
    answer = forge("export", folder, "--to", "onnx-web", "--out", tmp_path / "out", "--json")
    facts = answer.json()
    assert facts["double_equal_tokens"] == facts["compared_tokens"] == 200
    assert facts["double_max_logit_difference"] < 1e-11
    assert (tmp_path / "out" / "onnx.json").is_file()
    refused = forge("export", folder, "--to", "tflite", "--out", tmp_path / "other")
    assert refused.code == 2
    assert "onnx-cpu, onnx-web" in refused.sentence()
    hf = forge("export", folder, "--to", "hf", "--out", tmp_path / "hf", "--json").json()
    assert hf["max_logit_difference"] == 0.0
