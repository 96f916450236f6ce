import pytest
import torch

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.halting import halting_steps
from agent_forge.model.parameters import count_parameters

IDS = torch.randint(5, 97, (3, 23), generator=torch.Generator().manual_seed(4))


def test_the_first_step_is_the_backbones_own_prediction(small):
    model = small(recursion_steps=3)
    plain = CognateForCausalLM(CognateConfig(**{**model.config.to_dict(), "recursion_steps": 0})).eval()
    plain.load_state_dict(
        {name: value for name, value in model.state_dict().items() if not name.startswith("recursion")}
    )
    with torch.no_grad():
        steps = model.features(IDS).steps
        assert len(steps) == 3
        torch.testing.assert_close(steps[0], plain.features(IDS).steps[0], atol=0, rtol=0)
        assert len(model.features(IDS, steps=1).steps) == 1
        assert len(model.features(IDS, steps=5).steps) == 5


def test_one_step_is_no_recursion_and_has_no_parameters():
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for steps in (0, 1):
        assert "recursion" not in count_parameters(CognateConfig(**shape, recursion_steps=steps))
    assert count_parameters(CognateConfig(**shape, recursion_steps=2))["recursion"] > 0


def test_zero_initial_outputs_make_all_steps_predict_the_same():
    torch.manual_seed(0)
    model = CognateForCausalLM(CognateConfig(vocab_size=97, hidden_size=32, num_attention_heads=4, recursion_steps=4))
    with torch.no_grad():
        first, *others = model.eval().features(IDS).steps
    for other in others:
        torch.testing.assert_close(other, first)


@pytest.mark.parametrize("detach", [True, False])
def test_detached_states_cut_the_gradient_between_steps(small, detach):
    model = small(recursion_steps=2, recursion_detach=detach)
    x = torch.randn(1, 5, 32)
    layout = model.model.layout(x, None, None, None, None)
    shared = model.model.begin(layout, x, None, False)
    y, z = torch.randn(2, 1, 5, 32).requires_grad_().unbind(0)
    y.retain_grad()
    seen = model.recursion.remember(x, shared)
    model.recursion(x, y, z, seen, shared.table, shared.visibility)[0].sum().backward()
    assert (y.grad is None) == detach


@torch.no_grad()
def test_early_exit_gives_what_all_steps_give_at_the_step_where_each_position_stops(small):
    model = small(recursion_steps=4, act=True)
    for mask in (None, torch.tensor([[0] * 6 + [1] * 17, [1] * 23, [0] * 22 + [1]])):
        whole = model.features(IDS, mask)
        taken = halting_steps(whole.halting_logits, 0.5)
        expected = torch.stack(whole.steps).gather(0, (taken - 1)[None, :, :, None].expand(1, -1, -1, 32))[0]
        real = torch.ones_like(IDS).bool() if mask is None else mask.bool()
        assert len(taken[real].unique()) > 2
        stopped = model.features(IDS, mask, halt=True)
        torch.testing.assert_close(stopped.steps[0][real], expected[real], atol=1e-5, rtol=0)
        torch.testing.assert_close(model(IDS, mask).hidden[real], expected[real], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_work_of_early_exit_shrinks_with_the_positions_at_work(small):
    model = small(recursion_steps=4, act=True)
    sizes = []
    model.recursion.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[1]))
    model(IDS)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < sizes[0] < IDS.shape[1]
    model.halting.projection.bias.fill_(50.0)
    sizes.clear()
    model(IDS)
    assert sizes == []


@torch.no_grad()
def test_statistics_count_the_steps_that_were_taken(small):
    model = small(recursion_steps=3, act=True)
    taken = halting_steps(model.features(IDS).halting_logits, 0.5).float().mean()
    for halted in (True, False):
        found = model.features(IDS, halt=halted, output_statistics=True).statistics
        torch.testing.assert_close(found["act/avg_steps"], taken)
    model.halting.projection.weight.zero_()
    model.halting.projection.bias.fill_(-9.0)
    assert float(model(IDS, output_statistics=True).statistics["act/avg_steps"]) == 3.0


@torch.no_grad()
def test_only_outside_stateless_mode_the_calibration_moves_inference(small):
    for stateless in (True, False):
        model = small(recursion_steps=2, act=True, stateless_mode=stateless)
        before = model.features(IDS).halting_logits[0]
        model.halting.step_accuracy.fill_(0.9)
        after = model.features(IDS).halting_logits[0]
        shift = torch.zeros(()) if stateless else torch.tensor(0.9).logit()
        torch.testing.assert_close(after, before + shift)


@torch.no_grad()
def test_calibration_is_saved_with_the_model(small, tmp_path):
    model = small(recursion_steps=3, act=True)
    model.halting.step_accuracy.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.save_pretrained(tmp_path)
    loaded = CognateForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.halting.step_accuracy, model.halting.step_accuracy)
