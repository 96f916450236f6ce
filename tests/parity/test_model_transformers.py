"""Cognate with everything off is Llama; with QK-norm it is Qwen3: same weights, same logits and gradients."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from agent_forge.model import CognateConfig, CognateForCausalLM

SHAPE = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip
NAMES = {
    "self_attn": "attention",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "mlp_norm",
}


def pair(qk_norm: bool):
    torch.manual_seed(0)
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    if qk_norm:
        theirs = Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12, rope_parameters=rope))
    else:
        theirs = LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope))
    for parameter in theirs.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.1)
    ours = CognateForCausalLM(CognateConfig(**SHAPE, qk_norm=qk_norm, memory="off", short_convolution=0))
    ours.load_state_dict({translated(name): value for name, value in theirs.state_dict().items()})
    return ours.eval(), theirs.eval()


def translated(name: str) -> str:
    return ".".join(NAMES.get(piece, piece) for piece in name.split("."))


@pytest.mark.parametrize("qk_norm", [False, True], ids=["Llama", "Qwen3"])
def test_logits_and_gradients_are_equal(qk_norm):
    ours, theirs = pair(qk_norm)
    ids = torch.randint(3, 97, (2, 40), generator=torch.Generator().manual_seed(1))
    found, expected = ours(ids, labels=ids), theirs(ids, labels=ids)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss)
    found.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(gradients[translated(name)], parameter.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("qk_norm", [False, True], ids=["Llama", "Qwen3"])
@torch.no_grad()
def test_generated_tokens_are_equal(qk_norm):
    ours, theirs = pair(qk_norm)
    ids = torch.randint(3, 97, (2, 9), generator=torch.Generator().manual_seed(2))
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))


def test_the_norm_equals_torchs():
    from agent_forge.model.norm import RMSNorm

    torch.manual_seed(0)
    norm = RMSNorm(24)
    norm.weight.data.normal_()
    x = torch.randn(3, 5, 24, requires_grad=True)
    expected = torch.nn.functional.rms_norm(x, (24,), norm.weight, 1e-6)
    upstream = torch.randn_like(expected)
    found = norm(x)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (x, norm.weight), upstream)
    for got, want in zip(torch.autograd.grad(found, (x, norm.weight), upstream), wanted, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-4)
