"""Every part of the architecture in a graph: memory, gate, value residual, shared keys, recursion and its loop."""

import onnx
import pytest
import torch
from tests.phases.edge.onnx_models import cognate, graph_session, largest_difference

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
TOKENS = torch.randint(5, 300, (60,), generator=torch.Generator().manual_seed(1)).tolist()
CUTS = ([*range(1, 25), 60], [40, 41, 42, 60])


def test_memory_gate_value_residual_and_unrolled_recursion(tmp_path):
    model = cognate(
        memory="ema", memory_every=2, value_residual=True, num_key_value_heads=1, recursion_steps=3,
        logit_soft_cap=4.0, tie_word_embeddings=False, qk_norm=False, sliding_window=8,
    )  # fmt: skip
    session = graph_session(model, tmp_path)
    assert "past_memory.1" in session.past
    assert "past_memory.0" not in session.past
    assert "past_key_values.2.key" in session.past  # the recursion's own
    for cuts in CUTS:
        assert largest_difference(model, session, TOKENS, cuts) < 1e-4


def test_halting_is_a_loop_that_stops_where_the_model_stops(tmp_path):
    model = cognate(recursion_steps=4, act=True, stateless_mode=False, short_convolution=0)
    model.halting.projection.bias.data += 5.0
    model.halting.projection.weight.data = 0.5 * torch.randn_like(model.halting.projection.weight)
    model.halting.step_accuracy.copy_(torch.tensor([0.2, 0.4, 0.7, 0.9]))
    session = graph_session(model, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sum(node.op_type == "Loop" for node in graph.node) == 1
    with torch.inference_mode():
        logits = torch.stack(model(torch.tensor([TOKENS]), use_cache=False).halting_logits)
    assert len(logits) >= 2  # some positions went on, and not all
    assert bool((logits[0].sigmoid() > 0.5).any())
    for cuts in CUTS:
        assert largest_difference(model, session, TOKENS, cuts) < 1e-4
