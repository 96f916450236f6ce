"""A tiny ternary agent as a graph: the same tokens as the model, in any pieces, with bounded memory."""

import json

import numpy as np
import pytest
import torch
from tests.phases.edge.onnx_models import largest_difference, ternary_folder

from agent_forge.errors import ConfigError
from agent_forge.model.checkpoint import load_model
from agent_forge.model.generation import generate_tokens
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.onnx_session import OnnxSession

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TOKENS = torch.randint(5, 300, (150,), generator=torch.Generator().manual_seed(0)).tolist()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("export")
    folder = ternary_folder(place / "model", activation_bits=0)
    (folder / "tools.json").write_text("{}")
    return folder, place / "out", export_onnx(folder, place / "out", "cpu")


def test_the_facts_are_measured(exported):
    folder, out, facts = exported
    assert facts["compared_tokens"] == facts["equal_tokens"] == 200
    assert facts["max_logit_difference"] < 1e-3
    assert "torch_max_logit_difference" not in facts
    assert facts["bytes"] == (out / "model.onnx").stat().st_size < (folder / "model.safetensors").stat().st_size * 2
    assert (out / "tools.json").read_text() == "{}"
    assert (out / "tokenizer.json").is_file()


def test_the_manifest_names_every_input_and_output(exported):
    _, out, _ = exported
    manifest = json.loads((out / "onnx.json").read_text())
    session = OnnxSession(out, threads=1).session
    assert [entry.name for entry in session.get_inputs()] == [
        "input_ids", *(state["input"] for state in manifest["states"])
    ]  # fmt: skip
    assert [entry.name for entry in session.get_outputs()] == [
        "logits", *(state["output"] for state in manifest["states"])
    ]  # fmt: skip
    assert manifest["tokens"]["eos"] == [2]
    assert manifest["tokens"]["think"] is None
    assert (manifest["window"], manifest["global_every"], manifest["vocab_size"]) == (16, 4, 300)


@pytest.mark.parametrize("cuts", [range(1, 41), [128, 150], [1, 2, 50, 51, 150], [150]])
def test_any_pieces_give_the_same_logits(exported, cuts):
    folder, out, _ = exported
    assert largest_difference(load_model(folder)[0], OnnxSession(out, threads=1), TOKENS, cuts) < 1e-4


def test_forgetting_changes_nothing_and_bounds_the_memory(exported):
    folder, out, _ = exported
    model, _ = load_model(folder)
    whole, short = OnnxSession(out, threads=1), OnnxSession(out, threads=1)
    whole.manifest["window"] = None
    for token in TOKENS:
        np.testing.assert_allclose(short.step([token]), whole.step([token]), atol=2e-5)
    remembered = short.past["past_positions"].shape[1]
    assert remembered < 16 + 64 + 1 + 150 // 4
    assert whole.past["past_positions"].shape[1] == 150
    assert short.past["past_key_values.1.key"].shape[2] == remembered
    assert largest_difference(model, short, TOKENS, range(1, 151)) < 1e-4


def test_the_session_says_what_the_model_says(exported):
    folder, out, _ = exported
    model, tokenizer = load_model(folder)
    prompt = TOKENS[:9]
    expected = list(generate_tokens(model, tokenizer, prompt, max_tokens=30))
    assert list(OnnxSession(out, threads=1).greedy(prompt, 30, stop=[2])) == expected
    assert list(OnnxSession(out, threads=1).greedy(prompt, 30, stop=[expected[0]])) == []


def test_bad_input_is_refused_with_a_sentence(exported, tmp_path):
    folder, out, _ = exported
    with pytest.raises(ValueError, match="from 0 to 299"):
        OnnxSession(out, threads=1).step([300])
    with pytest.raises(ValueError, match="at least one token"):
        OnnxSession(out, threads=1).step([])
    with pytest.raises(ConfigError, match="not empty"):
        export_onnx(folder, out, "cpu")
    with pytest.raises(ConfigError, match="flavours are cpu, web"):
        export_onnx(folder, tmp_path / "new", "gpu")  # type: ignore[arg-type]
