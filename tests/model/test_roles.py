import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPTNeoXConfig, LlamaConfig, MixtralConfig, Qwen3Config

from agent_forge.model.roles import layer_index, parameter_roles, quantizable_linears

SMALL = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


@pytest.mark.parametrize("tied", [True, False])
def test_llama_by_role(tied):
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL, tie_word_embeddings=tied))
    roles = parameter_roles(model)
    assert roles["model.embed_tokens.weight"] == "embedding"
    assert roles["lm_head.weight"] == "head"
    assert roles["model.layers.0.mlp.gate_proj.weight"] == "linear"
    assert roles["model.layers.1.self_attn.q_proj.weight"] == "linear"
    assert roles["model.norm.weight"] == "norm"
    assert sum(role == "linear" for role in roles.values()) == 2 * 7
    assert [name for name, _ in quantizable_linears(model)] == [n for n, role in roles.items() if role == "linear"]


def test_a_router_is_a_gate_and_a_bias_is_never_quantized():
    mixture = AutoModelForCausalLM.from_config(MixtralConfig(**SMALL, num_local_experts=2))
    roles = parameter_roles(mixture)
    assert {role for name, role in roles.items() if ".gate." in name or ".router." in name} == {"gate"}
    neox = AutoModelForCausalLM.from_config(GPTNeoXConfig(**{**SMALL, "num_key_value_heads": None}))
    roles = parameter_roles(neox)
    assert roles["lm_head.weight"] == "head"
    assert {role for name, role in roles.items() if name.endswith("dense.bias")} == {"other"}
    assert roles["gpt_neox.layers.0.input_layernorm.bias"] == "norm"


def test_query_and_key_norms_are_norms():
    roles = parameter_roles(AutoModelForCausalLM.from_config(Qwen3Config(**SMALL, head_dim=8)))
    assert roles["model.layers.0.self_attn.q_norm.weight"] == "norm"


class Memory(nn.Module):
    def __init__(self):
        super().__init__()
        self.to_key = nn.Linear(4, 4)
        self.initial = nn.Parameter(torch.zeros(4, 4))


class Declared(nn.Module):
    parameter_role = "halting"

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(4, 4)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.memory = Memory()
        self.mixing_gate = nn.Linear(4, 4)
        self.rate = nn.Linear(4, 1)
        self.conv_q = nn.Conv1d(4, 4, 3)
        self.stop = Declared()


def test_words_types_and_declarations():
    roles = parameter_roles(Odd())
    assert roles["memory.to_key.weight"] == "linear"
    assert roles["memory.initial"] == "memory"
    assert roles["mixing_gate.weight"] == "gate"
    assert roles["rate.weight"] == "gate"
    assert roles["conv_q.weight"] == "convolution"
    assert roles["stop.project.weight"] == "halting"


def test_a_module_used_twice_is_quantized_once():
    shared = nn.Linear(4, 4)
    model = nn.ModuleDict({"a": shared, "b": shared})
    assert parameter_roles(model)["b.weight"] == "linear"
    assert [name for name, _ in quantizable_linears(model)] == ["a.weight"]


@pytest.mark.parametrize(
    ("name", "index"),
    [("model.layers.12.mlp.w.weight", 12), ("h.0.x", 0), ("lm_head.weight", None), ("blocks.1.memory.layers.5.w", 1)],
)
def test_layer_index(name, index):
    assert layer_index(name) == index
