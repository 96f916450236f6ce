import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.errors import HandoffError
from agent_forge.model.checkpoint import load_model, read_facts, save_model


@pytest.fixture
def folder(small, tokenizer, tmp_path):
    return save_model(small(), tokenizer, tmp_path / "saved", {"phase": "cognate", "seed": 42})


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_folder_comes_back_as_it_went(small, tokenizer, folder):
    model, loaded = load_model(folder)
    for name, tensor in small().state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, atol=0, rtol=0)
    assert not model.training
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert read_facts(folder) == {"phase": "cognate", "seed": 42}


def test_equal_models_give_equal_bytes_wherever_they_came_from(folder, tmp_path):
    again = save_model(*load_model(folder), tmp_path / "again", read_facts(folder))
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    second = {path.name: path.read_bytes() for path in again.iterdir()}
    assert first == second
    assert not any(str(tmp_path).encode() in content for content in first.values())


def test_any_causal_language_model_may_come(tokenizer, tmp_path):
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    save_model(LlamaForCausalLM(config), tokenizer, tmp_path)
    model, _ = load_model(tmp_path, dtype=torch.bfloat16)
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(folder, bad):
    def edit(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = bad

    change(folder, edit)
    with pytest.raises(HandoffError, match=r"model\.safetensors: tensor model\.layers\.1\.mlp\.up_proj\.weight.* 1 of"):
        load_model(folder)


def test_a_model_with_nan_is_not_saved(small, tokenizer, tmp_path):
    model = small()
    model.model.norm.weight.data[0] = float("nan")
    with pytest.raises(HandoffError, match=r"model\.norm\.weight"):
        save_model(model, tokenizer, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_missing_tensor_is_named(folder):
    change(folder, lambda tensors: tensors.pop("model.layers.0.attention.q_norm.weight"))
    with pytest.raises(HandoffError, match=r"q_norm\.weight is missing; config\.json asks for one of shape \[8\]"):
        load_model(folder)


def test_an_unexpected_tensor_is_named(folder):
    change(folder, lambda tensors: tensors.update(surplus=torch.zeros(3)))
    with pytest.raises(HandoffError, match="tensor surplus was found"):
        load_model(folder)


def test_a_wrong_shape_is_named_with_both_shapes(folder):
    name = "model.layers.0.mlp.down_proj.weight"
    change(folder, lambda tensors: tensors.update({name: torch.zeros(32, 47)}))
    with pytest.raises(HandoffError, match=r"down_proj\.weight has shape \[32, 47\].* \[32, 48\]"):
        load_model(folder)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(small, tokenizer, tmp_path):
    save_model(small(vocab_size=9), tokenizer, tmp_path)
    with pytest.raises(HandoffError, match=f"{len(tokenizer)} tokens.* 9 rows"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer"])
def test_missing_files_are_named(folder, name):
    for path in folder.glob(f"{name}*"):
        path.unlink()
    with pytest.raises(HandoffError, match="no "):
        load_model(folder)


def test_a_truncated_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HandoffError, match=r"model\.safetensors cannot be read"):
        load_model(folder)


def test_facts_must_be_finite_json(small, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_model(small(), tokenizer, tmp_path, {"loss": float("nan")})


def test_ternary_layers_survive_the_folder(small, tokenizer, tmp_path):
    from agent_forge.model.roles import quantizable_linears
    from agent_forge.model.ternary import Layout, TernaryLinear, ternary_linears

    model = small()
    for _, module in list(quantizable_linears(model)):
        TernaryLinear.from_linear(module, Layout(group_size=0), activation_bits=8)
    save_model(model, tokenizer, tmp_path)
    assert json.loads((tmp_path / "ternary.json").read_text())["tensors"]
    loaded, _ = load_model(tmp_path)
    assert set(ternary_linears(loaded)) == set(ternary_linears(model))
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, model(ids).logits, atol=0, rtol=0)
