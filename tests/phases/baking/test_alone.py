"""`agent-forge bake` on a model of transformers, and what it refuses."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model, save_model
from agent_forge.phases.baking.alone import bake_folder

QUESTIONS = [f"What is {n}?" for n in range(12)]
SETTINGS = {"persona_steps": 12, "answer_tokens": 6, "max_questions": 1, "baking_learning_rate": 2e-2, "top_k": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = train_tokenizer(QUESTIONS, 270)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=270, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    return save_model(LlamaForCausalLM(config).eval(), tokenizer, tmp_path_factory.mktemp("alone") / "model", {})


def test_a_prompt_goes_into_the_weights_of_any_model(folder, tmp_path):
    facts = bake_folder(folder, tmp_path / "out", prompt="Speak softly.", questions=QUESTIONS, **SETTINGS)
    assert facts["divergence_before"] > 0
    assert facts["divergence_ratio"] < 0.9
    stored = json.loads((tmp_path / "out" / "forge.json").read_text())
    assert stored["prompt"] == "Speak softly."
    before, after = (load_model(place)[0].state_dict() for place in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])


def test_half_a_strength_is_half_the_change(folder, tmp_path):
    name = "model.layers.0.self_attn.q_proj.weight"
    changes = []
    for strength in (1.0, 0.5):
        out = tmp_path / str(strength)
        bake_folder(folder, out, prompt="Be brief.", questions=QUESTIONS, strength=strength, **SETTINGS)
        changes.append(load_model(out)[0].state_dict()[name] - load_model(folder)[0].state_dict()[name])
    torch.testing.assert_close(changes[1], changes[0] / 2, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"prompt": "  "}, "the prompt is empty"),
        ({"questions": ["one"]}, "there are 1 questions"),
        ({"strength": 1.5}, "strength"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_what_cannot_be_is_one_sentence(folder, tmp_path, changes, sentence):
    given = {"prompt": "Be brief.", "questions": QUESTIONS, **SETTINGS, **changes}
    with pytest.raises(ConfigError, match=sentence):
        bake_folder(folder, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(folder, tmp_path):
    (tmp_path / "kept.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        bake_folder(folder, tmp_path, prompt="Be brief.", questions=QUESTIONS)
