"""First-order importance: on paper, and against gates that are really there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.phases.edge.cuts import anatomy
from agent_forge.phases.edge.importance import first_order, token_loss


def cognate():
    torch.manual_seed(0)
    return CognateForCausalLM(
        CognateConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            zero_init_output=False,
        )
    ).eval()


def batches(count=2, rows=3):
    generator = torch.Generator().manual_seed(1)
    return [{"input_ids": torch.randint(3, 300, (rows, 12), generator=generator)} for _ in range(count)]


class Line(nn.Module):
    """logit of token 1 = a·w₀ + b·w₁ over a head whose inputs are known: gradients on paper."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(2, 2)
        self.o_proj = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.embed.weight.copy_(torch.tensor([[1.0, 2.0], [1.0, 2.0]]))
            self.o_proj.weight.copy_(torch.tensor([[0.0, 0.0], [0.5, -1.0]]))

    def forward(self, input_ids, use_cache=False):
        class Output:
            logits = self.o_proj(self.embed(input_ids))

        return Output


def test_importance_on_paper():
    # logits (0, 0.5·1 − 1·2 = −1.5); target 1: dL/dz₁ = σ(−1.5) − 1 = −0.8176. ∂L/∂x = (0.5, −1) · that; x = (1, 2).
    model = Line()
    found = first_order(model, [{"input_ids": torch.tensor([[1, 1]])}], {"o_proj": model.o_proj}, [])
    assert found.inputs["o_proj"] == pytest.approx(torch.tensor([0.4088, 1.6351], dtype=torch.float64), abs=1e-4)
    assert found.loss == pytest.approx(1.7014, abs=1e-4)


def test_importance_is_the_gradient_of_a_gate_on_each_head():
    """arXiv:1905.10650, section 4.1, with gates that are really there."""
    model, data = cognate(), batches(1, rows=1)
    place = anatomy(model).places["heads"]["model.layers.1.attention"]
    linear, width = place.columns
    found = first_order(model, data, {"o": linear}, [], {"o": width})
    gates = torch.ones(place.count, requires_grad=True)
    hook = linear.register_forward_pre_hook(lambda _, given: (given[0] * gates.repeat_interleave(width),))
    (gradient,) = torch.autograd.grad(token_loss(model, data[0]), gates)
    hook.remove()
    assert found.inputs["o"] == pytest.approx(gradient.abs().double(), rel=1e-4)


def test_importance_predicts_what_a_small_unit_costs():
    model, data = cognate(), batches()
    path = "model.layers.0.mlp"
    linear = anatomy(model).places["channels"][path].columns[0]
    with torch.no_grad():
        linear.weight[:, 7] *= 0
    found = first_order(model, data, {path: linear}, list(model.model.layers))
    assert int(found.inputs[path].argmin()) == 7
    assert float(found.inputs[path][7]) == 0
    assert len(found.layers) == 3
    assert bool((found.layers > 0).all())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_importance_needs_data_and_layers_that_run():
    model = cognate()
    with pytest.raises(ValueError, match="at least one batch"):
        first_order(model, [], {}, [])
    with pytest.raises(ValueError, match="never used"):
        first_order(model, batches(1), {"unused": nn.Linear(2, 2)}, [])
