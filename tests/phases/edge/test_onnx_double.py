"""Graph and model in double: every part of the architecture with its rounding of inputs, and what double means here."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tests.phases.edge.onnx_models import cognate, largest_difference, ternary_folder
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear, fake_quantize_activations
from agent_forge.phases.edge.export_onnx import export_onnx, write_graph
from agent_forge.phases.edge.onnx_double import DoubleSession, Round, in_double, widened
from agent_forge.phases.edge.onnx_parity import double_parity

pytest.importorskip("onnxscript")
TOKENS = torch.randint(5, 300, (30,), generator=torch.Generator().manual_seed(1)).tolist()
CUTS = ([*range(1, 25), 30], [20, 21, 22, 30])
EXACT = 1e-11


def rounding(model):
    """The same model with ternary layers that round their inputs."""
    for module in list(model.modules()):
        if type(module) is nn.Linear and module is not model.get_output_embeddings() and module.bias is None:
            TernaryLinear.from_linear(module, Layout(), activation_bits=8).freeze()
    return model


def worst(model, place, flavour):
    """Largest difference of a model, once it rounds, and its graph, in the pieces of `CUTS`."""
    manifest = write_graph(rounding(model), place / "model.onnx", flavour)
    (place / "onnx.json").write_text(json.dumps(manifest))
    session = DoubleSession(place)
    with in_double(model) as wide:
        return max(largest_difference(wide, session, TOKENS, cuts) for cuts in CUTS)


def test_every_part_with_rounded_inputs(tmp_path):
    model = cognate(
        memory="ema", memory_every=2, value_residual=True, num_key_value_heads=1, logit_soft_cap=4.0, sliding_window=8,
        tie_word_embeddings=False, recursion_steps=4, act=True,
    )  # fmt: skip
    model.halting.projection.bias.data += 5.0
    model.halting.projection.weight.data = 0.5 * torch.randn_like(model.halting.projection.weight)
    assert worst(model, tmp_path, "cpu") < EXACT  # a head that is not tied is no table of int8
    assert any(node.op_type == "Loop" for node in onnx.load(tmp_path / "model.onnx").graph.node)


def test_a_llama(tmp_path):
    torch.manual_seed(0)
    shape = {"vocab_size": 300, "hidden_size": 36, "intermediate_size": 48, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=3, num_key_value_heads=3, initializer_range=0.2)
    assert worst(LlamaForCausalLM(config).eval(), tmp_path, "cpu") < EXACT


def test_a_model_that_rounds_nothing_has_no_such_figure(tmp_path):
    folder = ternary_folder(tmp_path / "model", activation_bits=0)
    assert double_parity(*load_model(folder), tmp_path / "no export is opened") == {}


def test_the_middle_goes_up_on_both_sides():
    """63.5 of 127, on either side of the sixteenth digit, and in a number that is not near the middle nothing moves."""
    values = np.array([127.0, 63.5 - 1e-13, 63.5 + 1e-13, -63.5 + 1e-13, 2.5, 63.4999, 0.0])
    node = helper.make_node("Round", ["x"], ["y"])
    given, found = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [7]) for name in "xy")
    model = helper.make_model(helper.make_graph([node], "g", [given], [found]))
    wanted = [127, 64, 64, -64, 3, 63, 0]
    assert ReferenceEvaluator(widened(model), new_ops=[Round]).run(None, {"x": values})[0].tolist() == wanted
    with in_double(nn.Linear(1, 1)):
        assert fake_quantize_activations(torch.from_numpy(values)).tolist() == pytest.approx(wanted)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("double")
    folder = ternary_folder(place / "model")
    export_onnx(folder, place / "out", "web", tokens=1)
    return folder, place / "out"


def test_double_is_double_all_the_way(exported):
    folder, out = exported
    graph = widened(onnx.load(out / "model.onnx")).graph
    assert all(tensor.data_type != TensorProto.FLOAT for tensor in graph.initializer)
    assert not [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT]
    model, _ = load_model(folder)
    ids = torch.tensor([TOKENS])
    with torch.inference_mode():
        before = model(ids).logits
        with in_double(model) as wide:
            assert wide(ids).logits.dtype == torch.float64
        assert torch.equal(model(ids).logits, before)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_two_hundred_tokens_of_an_agent(exported):
    folder, out = exported
    facts = double_parity(*load_model(folder), out)
    assert facts["double_equal_tokens"] == 200
    assert facts["double_max_logit_difference"] < EXACT
