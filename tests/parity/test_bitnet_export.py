"""Exports against what reads them: stock `transformers` and the `gguf` package."""

import importlib
import json
import warnings

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import ConfigError, HandoffError
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.phases.bitnet.alone import quantize_folder
from agent_forge.phases.bitnet.export import export_folder
from agent_forge.phases.bitnet.export_gguf import _as_known_architecture, _read_back

SHAPE = {
    "vocab_size": 320, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
IDS = torch.arange(5, 37)[None]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([f"{count} apples and {count + 1} pears" for count in range(50)], 300)


def _ternary(folder, model, tokenizer, **changes):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    save_model(model, tokenizer, folder / "full", {})
    quantize_folder(folder / "full", folder / "ternary", **changes)
    return folder / "ternary"


@pytest.fixture(scope="module")
def llama(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False))
    return _ternary(tmp_path_factory.mktemp("llama"), model, tokenizer, group_size=0, finer_group_size=0)


@pytest.fixture(scope="module")
def plain_cognate(tmp_path_factory, tokenizer):
    torch.manual_seed(0)
    shape = {key: SHAPE[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    config = CognateConfig(**shape, num_attention_heads=4, short_convolution=0, zero_init_output=False)
    return _ternary(tmp_path_factory.mktemp("cognate"), CognateForCausalLM(config), tokenizer)


@torch.no_grad()
def _logits(model):
    return model(IDS, use_cache=False).logits


def _load_stock(folder):
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        # The BitNet layers of transformers import the compiler of torch, which uses deprecated parts of torch.
        warnings.simplefilter("ignore")
        importlib.import_module("transformers.integrations.bitnet")
        model = AutoModelForCausalLM.from_pretrained(folder)
        return type(model), _logits(model)


@pytest.mark.parametrize("linear_class", ["bitlinear", "autobitlinear"])
def test_stock_transformers_loads_hf_bitnet_with_equal_logits(llama, tmp_path, linear_class):
    facts = export_folder(llama, tmp_path / "out", to="hf-bitnet", linear_class=linear_class)
    loaded, logits = _load_stock(tmp_path / "out")
    ours, _ = load_model(llama)
    assert loaded is LlamaForCausalLM
    assert (logits - _logits(ours)).abs().max() <= 1e-3
    assert facts["bytes"] < 0.5 * (llama / "model.safetensors").stat().st_size


def test_the_wrong_convention_would_be_seen(llama, tmp_path):
    export_folder(llama, tmp_path / "out", to="hf-bitnet", linear_class="bitlinear")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    config["quantization_config"]["linear_class"] = "autobitlinear"
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    _, logits = _load_stock(tmp_path / "out")
    assert (logits - _logits(load_model(llama)[0])).abs().max() > 0.05


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 5e-3)])
def test_hf_is_the_dequantized_model(llama, tmp_path, dtype, bound):
    export_folder(llama, tmp_path / "out", to="hf", dtype=dtype)
    assert not (tmp_path / "out" / "ternary.json").exists()
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    reference = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32).eval()
    assert (_logits(plain) - _logits(reference)).abs().max() <= bound
    weight = load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert len(weight.unique()) == 3


@pytest.mark.parametrize("kind", ["TQ1_0", "TQ2_0"])
def test_gguf_holds_every_weight(llama, tmp_path, kind, tokenizer):
    facts = export_folder(llama, tmp_path / "out", to="gguf", kind=kind)
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert facts["ternary_tensors"] == 14
    assert tensors["blk.1.ffn_down.weight"].tensor_type.name == kind
    state = load_file(llama / "model.safetensors")

    def values(name):
        return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type)

    for theirs, mine in (
        ("ffn_up", "mlp.up_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
    ):
        assert np.array_equal(values(f"blk.0.{theirs}.weight"), state[f"model.layers.0.{mine}.weight"].numpy())
    # llama.cpp rotates neighbouring channels: within each head of 64, channel c lies beside c + 32.
    query = state["model.layers.0.self_attn.q_proj.weight"].view(4, 2, 32, 256).transpose(1, 2).reshape(256, 256)
    assert np.array_equal(values("blk.0.attn_q.weight"), query.numpy())
    embedding = state["model.embed_tokens.weight"].numpy()
    assert np.abs(values("token_embd.weight") - embedding).max() < np.abs(embedding).max() / 100
    fields = {name: reader.fields[name].contents() for name in reader.fields}
    assert fields["llama.block_count"] == 2
    assert fields["llama.attention.head_count_kv"] == 2
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|pad|>", "<|bos|>", "<|end|>"]
    assert len(fields["tokenizer.ggml.tokens"]) == 320
    assert fields["tokenizer.ggml.token_type"][0] == 3
    assert fields["tokenizer.ggml.pre"] == "smollm"
    assert fields["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id


def test_a_plain_cognate_is_a_qwen3_under_other_names(plain_cognate, tmp_path):
    config = json.loads((plain_cognate / "config.json").read_text())
    shape, state, layouts = _as_known_architecture(config, load_file(plain_cognate / "model.safetensors"), {})
    known = {key: shape[key] for key in (*SHAPE, "head_dim", "rms_norm_eps", "rope_theta")}
    twin = Qwen3ForCausalLM(Qwen3Config(**known, tie_word_embeddings=True)).eval()
    missing, unexpected = twin.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"]
    assert unexpected == []
    assert layouts == {}
    plain = AutoModelForCausalLM.from_pretrained(plain_cognate, dtype=torch.float32).eval()
    assert torch.allclose(_logits(twin), _logits(plain), atol=1e-4)
    facts = export_folder(plain_cognate, tmp_path / "out", to="gguf")
    assert facts["ternary_tensors"] == 14
    reader = gguf.GGUFReader(tmp_path / "out" / "model.gguf")
    assert reader.fields["general.architecture"].contents() == "qwen3"
    assert reader.fields["qwen3.context_length"].contents() == 1024


def test_what_cannot_be_exported_says_why(tmp_path, tokenizer, llama, plain_cognate):
    torch.manual_seed(0)
    config = CognateConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        short_convolution=4,
    )
    cognate = _ternary(tmp_path, CognateForCausalLM(config), tokenizer)
    with pytest.raises(HandoffError, match="uses short_convolution"):
        export_folder(cognate, tmp_path / "a", to="gguf")
    with pytest.raises(HandoffError, match="Cognate is not one of them"):
        export_folder(plain_cognate, tmp_path / "a", to="hf-bitnet")
    with pytest.raises(HandoffError, match="not ternary"):
        export_folder(tmp_path / "full", tmp_path / "a", to="gguf")
    with pytest.raises(ConfigError, match="unknown export target"):
        export_folder(llama, tmp_path / "a", to="onnx")
    with pytest.raises(ConfigError, match="not empty"):
        export_folder(llama, tmp_path, to="hf")
    with pytest.raises(ConfigError, match="kind"):
        export_folder(llama, tmp_path / "b", to="gguf", kind="Q4_0")
    with pytest.raises(ConfigError, match="dtype"):
        export_folder(llama, tmp_path / "c", to="hf", dtype="int8")
    with pytest.raises(ConfigError, match="linear_class"):
        export_folder(llama, tmp_path / "d", to="hf-bitnet", linear_class="linear")


@pytest.mark.parametrize(
    ("target", "group_size", "words"), [("hf-bitnet", -1, "group size 0"), ("gguf", 64, "per row")]
)
def test_scales_that_a_format_cannot_hold(tmp_path, tokenizer, target, group_size, words):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPE, "num_hidden_layers": 1}))
    folder = _ternary(tmp_path, model, tokenizer, group_size=group_size, finer_group_size=group_size)
    with pytest.raises(HandoffError, match=words):
        export_folder(folder, tmp_path / "out", to=target)


def test_a_gguf_file_that_says_something_else_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("output.weight", np.ones((2, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    _read_back(gguf, tmp_path / "a.gguf", "llama", {"output.weight": np.ones((2, 4), np.float32)})
    for architecture, written in (
        ("qwen3", {"output.weight": np.ones((2, 4), np.float32)}),
        ("llama", {"output.weight": np.zeros((2, 4), np.float32)}),
        ("llama", {}),
    ):
        with pytest.raises(HandoffError, match=r"says architecture|does not read back"):
            _read_back(gguf, tmp_path / "a.gguf", architecture, written)
