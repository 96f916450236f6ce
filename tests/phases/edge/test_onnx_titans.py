"""The titans memory in a graph: chunks that close within a prompt, at a token or not at all, in any pieces."""

import itertools

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phases.edge.onnx_models import cognate, graph_session, largest_difference, plain_folder, ternary_folder
from tests.phases.edge.pages import ask_page, need_browser_runtime

from agent_forge.model.attention import TokenLayout
from agent_forge.model.checkpoint import load_model
from agent_forge.model.titans import AssociativeMemory
from agent_forge.phases.edge import onnx_parity
from agent_forge.phases.edge.export_onnx import export_onnx, projection
from agent_forge.phases.edge.onnx_layers import Pass
from agent_forge.phases.edge.onnx_titans import TitansStep, log_sigmoid
from agent_forge.phases.edge.web_export import export_web

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CHUNK = 8
TITANS = {"memory": "titans", "memory_heads": 2, "memory_chunk": CHUNK}
TOKENS = torch.randint(5, 300, (1000,), generator=torch.Generator().manual_seed(3)).tolist()


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    model = cognate(**TITANS)
    return model, graph_session(model, tmp_path_factory.mktemp("graph"), "web")


def cuts_of(pieces):
    return list(itertools.accumulate(pieces))


def test_a_thousand_tokens_one_by_one_with_a_bounded_past(opened):
    model, session = opened
    assert largest_difference(model, session, TOKENS, range(1, 1001)) < 1e-4
    assert session.past["past_positions"].shape[1] < 16 + 64 + 1 + 1000 // 4
    assert session.past["past_memory.0.memory"].shape == session.past["past_memory.1.surprise"].shape == (1, 2, 8, 8)
    assert session.past["past_memory.1.tokens"].shape == (1, CHUNK, 2 * 16 + 3 * 2)


@pytest.mark.parametrize("prompt", [1, 7, 8, 9, 15, 16, 17, 24, 25, 64, 999])
def test_prompts_that_end_around_the_end_of_a_chunk(opened, prompt):
    pieces = [prompt, *[1] * min(10, 1000 - prompt), 1000 - prompt - min(10, 1000 - prompt)]
    assert largest_difference(*opened, TOKENS, cuts_of(piece for piece in pieces if piece)) < 1e-4


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12))
@settings(max_examples=25, deadline=None)
def test_any_pieces_give_the_same_logits(opened, pieces):
    assert largest_difference(*opened, TOKENS, cuts_of(pieces)) < 1e-4


def test_the_memory_is_read_and_nothing_of_it_is_left_out(opened):
    """Each state of the memory, were it lost on the way, would be missed."""
    _, session = opened
    states = [name for name in session.past if name.startswith("past_memory.1")]
    assert len(states) == 3
    for lost in (None, *states):
        session.reset()
        session.step(TOKENS[:20])
        if lost:
            session.past[lost] = np.zeros_like(session.past[lost])
        logits = session.step(TOKENS[20:30])
        if lost is None:
            whole = logits
        else:
            assert np.abs(logits - whole).max() > 1e-3, lost


@pytest.mark.parametrize(
    "changes",
    [
        {"recursion_steps": 4, "act": True, "stateless_mode": False, "gate": False, "memory_chunk": 1,
         "memory_every": 2, "short_convolution": 0, "value_residual": True},
        {"recursion_steps": 2, "memory_chunk": 64, "num_key_value_heads": 1, "global_every": 0, "num_hidden_layers": 1},
    ],
)  # fmt: skip
def test_with_every_other_part(tmp_path, changes):
    model = cognate(**{**TITANS, **changes})
    if model.halting is not None:
        model.halting.projection.bias.data += 5.0
        model.halting.step_accuracy.copy_(torch.tensor([0.2, 0.4, 0.7, 0.9]))
    session = graph_session(model, tmp_path)
    loops = sum(node.op_type == "Loop" for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert loops == 1 + (model.halting is not None)
    for pieces in ([1] * 140, [63, 1, 1, 70], [64, 1, 13], [65, 3, 62, 1], [131]):
        assert largest_difference(model, session, TOKENS, cuts_of(pieces)) < 1e-4


def test_a_ternary_agent_and_the_same_past(tmp_path, monkeypatch):
    folder = ternary_folder(tmp_path / "model", num_hidden_layers=1, **TITANS)
    facts = export_onnx(folder, tmp_path / "out", "cpu")
    assert facts["compared_tokens"] == 200
    assert facts["equal_tokens"] >= 190
    assert facts["same_past_within"] > 0.9
    assert facts["same_past_median"] < 1e-4
    # the comparison sees the tokens of the open chunk
    monkeypatch.setattr(onnx_parity, "torch_state", lambda held, name, shape: torch.zeros(tuple(shape)))
    model, tokenizer = load_model(folder)
    assert onnx_parity.parity(model, tokenizer, tmp_path / "out", 60)["same_past_within"] < 0.5


@given(st.lists(st.integers(1, 11), min_size=1, max_size=8), st.integers(1, 6), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_layer_equals_that_of_the_model(pieces, chunk, seed):
    torch.manual_seed(seed)
    memory = AssociativeMemory(6, 8, 2, chunk)
    for parameter in memory.parameters():
        torch.nn.init.normal_(parameter, std=1.5)
    step = TitansStep(memory, lambda layers: projection(layers, "web"))
    x, start, found = torch.randn(1, sum(pieces), 6), 0, []
    past = {state.input: state.example(0) for state in step.states(0)}
    with torch.inference_mode():
        for piece in pieces:
            positions = torch.arange(start, start + piece)[None]
            shared = Pass(past, *[torch.empty(0)] * 3, positions)
            found.append(step(x[:, start : start + piece], shared, 0))
            past = {state.input: shared.present[state.output] for state in step.states(0)}
            start += piece
        whole = memory(x, TokenLayout(torch.arange(start)[None]))
    torch.testing.assert_close(torch.cat(found, 1), whole, atol=1e-4, rtol=1e-4)


def test_logarithms_of_rates_keep_their_digits():
    x = torch.tensor([-200.0, -90.0, -7.0, -0.5, 0.0, 0.5, 7.0, 16.0, 30.0, 200.0])
    torch.testing.assert_close(log_sigmoid(x), F.logsigmoid(x), rtol=3e-7, atol=0)


def test_in_the_runtime_of_the_browser(tmp_path):
    need_browser_runtime()
    folder = plain_folder(tmp_path / "model", num_hidden_layers=1, **TITANS)
    facts = export_web(folder, tmp_path / "page")
    assert facts["equal_tokens"] == facts["compared_tokens"] >= 200
    ids = TOKENS[:130]
    said = ask_page(
        "follow", page=str(tmp_path / "page"), ids=ids, messages=[{"role": "user", "content": "Hello."}], stopAfter=1
    )
    with torch.inference_mode():
        wanted = load_model(folder)[0](torch.tensor([ids]), use_cache=False).logits[0].argmax(-1).tolist()
    assert said["found"] == wanted
