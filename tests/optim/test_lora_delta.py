"""Low-rank deltas: put on, trained, taken off."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.optim import lora_delta


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x)))


def _net() -> _Net:
    torch.manual_seed(0)
    return _Net()


def test_an_adapter_starts_at_nothing_and_comes_off_without_a_trace() -> None:
    net, x = _net(), torch.randn(4, 6)
    before, names = net(x), list(net.state_dict())
    own = lora_delta.attach(net, ["first.weight"], rank=2, generator=torch.Generator().manual_seed(0))
    assert len(own) == 2
    torch.testing.assert_close(net(x), before)
    deltas = lora_delta.take_off(net)
    assert float(deltas["first.weight"].abs().max()) == 0
    assert list(net.state_dict()) == names
    torch.testing.assert_close(net(x), before)


def test_the_delta_is_what_was_learned() -> None:
    net, x = _net(), torch.randn(4, 6)
    lora_delta.attach(net, ["first.weight", "second.weight"], rank=2, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
    for _ in range(5):
        loss = net(x).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    learned = net(x)
    deltas = lora_delta.take_off(net)
    with torch.no_grad():
        for name, delta in deltas.items():
            assert torch.linalg.matrix_rank(delta) <= 2
            net.get_parameter(name).add_(delta)
    torch.testing.assert_close(net(x), learned)


def test_the_scale_is_one_as_in_peft_with_alpha_equal_to_rank() -> None:
    net = _net()
    lora_delta.attach(net, ["first.weight"], rank=4, generator=torch.Generator().manual_seed(0))
    theirs = get_peft_model(_net(), LoraConfig(r=4, lora_alpha=4, target_modules=["first"]))
    ours = lora_delta.layers(net)["first"]
    assert ours.scaling["baking"] == theirs.base_model.model.first.scaling["default"] == 1.0
    with torch.no_grad():
        ours.lora_B["baking"].weight.fill_(1.0)
    wanted = ours.lora_A["baking"].weight.sum(0).expand(5, 6)
    torch.testing.assert_close(lora_delta.take_off(net)["first.weight"], wanted)


def test_a_ternary_layer_keeps_its_forward_under_an_adapter() -> None:
    net, x = _net(), torch.randn(4, 6)
    TernaryLinear.from_linear(net.first, Layout())
    before = net(x)
    lora_delta.attach(net, ["first.weight"], rank=2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(x), before)
    lora_delta.take_off(net)
    assert isinstance(net.first, TernaryLinear)


def test_what_cannot_be_adapted_is_refused() -> None:
    net = _net()
    generator = torch.Generator()
    with pytest.raises(ValueError, match="rank 0"):
        lora_delta.attach(net, ["first.weight"], rank=0, generator=generator)
    with pytest.raises(ValueError, match="0 layers"):
        lora_delta.attach(net, [], rank=2, generator=generator)
    lora_delta.attach(net, ["first.weight"], rank=2, generator=generator)
    with pytest.raises(ValueError, match="already"):
        lora_delta.attach(net, ["second.weight"], rank=2, generator=generator)
