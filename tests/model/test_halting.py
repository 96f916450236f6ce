import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.model.halting import (
    CALIBRATION_START,
    HaltingHead,
    accuracy_by_threshold,
    halting_loss,
    halting_steps,
    halting_targets,
)


def test_targets_checked_by_hand():
    losses = torch.tensor([[[2.0, 2.0, 0.1]], [[1.0, 1.995, 0.05]], [[0.5, 1.0, 0.01]]])
    correct = torch.tensor([[[False, False, True]], [[False, False, True]], [[True, False, True]]])
    # first token: gains 1.0 and 0.5, so it goes on; second: gains 0.005, stops at once; third: right already
    assert halting_targets(losses, correct, epsilon=0.01).tolist() == [[[0, 1, 1]], [[0, 0, 1]], [[1, 1, 1]]]


def test_steps_checked_by_hand():
    logits = [torch.tensor([[3.0, -3.0, -3.0]]), torch.tensor([[-3.0, 3.0, -3.0]]), torch.tensor([[-3.0, -3.0, -3.0]])]
    assert halting_steps(logits, 0.5).tolist() == [[1, 2, 3]]
    assert halting_steps(logits, 0.99).tolist() == [[3, 3, 3]]


def test_the_loss_prefers_a_head_that_knows():
    targets = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])
    knows = [torch.tensor([[4.0, -4.0]]), torch.zeros(1, 2)]
    guesses = [torch.zeros(1, 2), torch.zeros(1, 2)]
    wrong = [torch.tensor([[-4.0, 4.0]]), torch.zeros(1, 2)]
    order = [halting_loss(logits, targets).item() for logits in (knows, guesses, wrong)]
    assert order == sorted(order)
    torch.testing.assert_close(halting_loss(guesses, targets), torch.tensor(2.0).log())
    ignored = halting_loss(wrong, targets, valid=torch.tensor([[False, False]]))
    assert ignored.item() == 0


def test_calibration_draws_targets_to_the_recorded_rate():
    logits = [torch.full((1, 4), 0.9).logit(), torch.zeros(1, 4)]
    targets = torch.zeros(2, 1, 4)
    alone = halting_loss(logits, targets, accuracy=torch.tensor([0.9, 0.9]), trust=1.0)
    drawn = halting_loss(logits, targets, accuracy=torch.tensor([0.9, 0.9]), trust=0.0)
    torch.testing.assert_close(alone, -torch.tensor(0.1).log())
    assert drawn < alone


def test_the_record_moves_by_two_percent_of_the_difference():
    head = HaltingHead(4, 2)
    head.record(torch.ones(2, 1, 3), [torch.full((1, 3), 30.0), torch.full((1, 3), -30.0)])
    torch.testing.assert_close(head.step_accuracy, torch.full((2,), CALIBRATION_START + 0.02 * 0.5))
    torch.testing.assert_close(head.step_rate, torch.tensor([0.51, 0.49]))


@given(st.integers(0, 1000))
def test_the_curve_ends_with_all_steps_and_saves_more_at_lower_thresholds(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = list(torch.randn(3, 2, 7, generator=generator) * 3)
    losses = torch.rand(3, 2, 7, generator=generator)
    correct = losses < 0.5
    curve = accuracy_by_threshold(logits, correct, losses)
    steps = [point["avg_steps"] for point in curve]
    assert steps == sorted(steps)
    assert curve[-1]["avg_steps"] == 3.0
    assert abs(curve[-1]["loss"] - losses[-1].mean().item()) < 1e-6
    assert abs(curve[-1]["accuracy"] - correct[-1].float().mean().item()) < 1e-6
