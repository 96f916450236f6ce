"""The loss by hand, the head's neutral start, and that the gradient goes where the reward is."""

import math

import pytest
import torch

from agent_forge.phases.quietstar.mixing_head import MixingHead, mixed
from agent_forge.phases.quietstar.reinforce import quiet_loss, targets
from agent_forge.phases.quietstar.thought_sampling import ThoughtPass


class Constant(torch.nn.Module):
    """A head that always gives one weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, without, with_thought):
        return torch.full((*without.shape[:-1], 1), self.weight)


def by_hand(talk_probability, log_probs):
    """Two samples of one position of a text of two tokens, vocabulary of two; the base says 50:50."""
    talk = torch.tensor([[p, 1 - p] for p in talk_probability]).log().reshape(2, 1, 1, 2)
    return ThoughtPass(
        base_logits=torch.zeros(2, 2, 2), base_hidden=torch.zeros(2, 2, 3), log_probs=log_probs,
        talk_logits=talk, talk_hidden=torch.zeros(2, 1, 1, 3),
    )  # fmt: skip


def test_by_hand():
    log_probs = torch.tensor([[[-1.0, -3.0]], [[-2.0, -2.0]]], requires_grad=True)
    found = by_hand([0.8, 0.2], log_probs)
    wanted = torch.zeros(2, 1, 1, dtype=torch.long)
    loss = quiet_loss(
        found, Constant(1.0), wanted, torch.tensor([0]), samples=2, policy_weight=0.5, divergence_weight=0.0
    )
    nats = -(math.log(0.8) + math.log(0.2)) / 2
    advantage = (math.log(0.8) - math.log(0.2)) / 2  # of the first; the second is below the mean and does not count
    policy = advantage * 2.0 / 2  # mean surprise of its tokens is 2, over two thoughts
    assert loss.nats == pytest.approx(nats)
    assert loss.policy == pytest.approx(policy)
    assert float(loss.loss.detach()) == pytest.approx(nats + 0.5 * policy)
    assert loss.gain == pytest.approx(-nats - math.log(0.5))
    assert loss.entropy == pytest.approx(2.0)
    loss.loss.backward()
    assert bool((log_probs.grad[0] < 0).all())  # descent makes the helpful thought likelier
    assert bool((log_probs.grad[1] == 0).all())


def test_a_fresh_head_is_exactly_the_model_without_thoughts():
    head = MixingHead.seeded(3, torch.Generator().manual_seed(0))
    weight = head(torch.randn(4, 3), torch.randn(4, 3))
    assert bool((weight == 0).all())
    without, thought = torch.randn(4, 7), torch.randn(4, 7)
    assert torch.equal(mixed(without, thought, weight), without)
    assert torch.allclose(mixed(without, thought, torch.ones(4, 1)), thought)
    weight.sum().backward()
    assert float(head.inner[-1].weight.grad.abs().sum()) > 0  # and it can leave that start


def test_equal_thoughts_earn_nothing():
    log_probs = torch.tensor([[[-1.0]], [[-2.0]]], requires_grad=True)
    wanted = torch.zeros(2, 1, 1, dtype=torch.long)
    options = {"samples": 2, "policy_weight": 1.0, "divergence_weight": 0.0}
    loss = quiet_loss(by_hand([0.6, 0.6], log_probs), Constant(1.0), wanted, torch.tensor([0]), **options)
    assert loss.policy == 0.0


def test_the_leash_is_zero_where_nothing_moved():
    found = by_hand([0.6, 0.6], torch.zeros(2, 1, 1))
    wanted = torch.zeros(2, 1, 1, dtype=torch.long)
    options = {"samples": 2, "policy_weight": 0.0, "divergence_weight": 1.0}
    same = quiet_loss(found, Constant(0.0), wanted, torch.tensor([0]), before=found.base_logits, **options)
    assert same.divergence == pytest.approx(0.0, abs=1e-7)
    moved = quiet_loss(
        found, Constant(0.0), wanted, torch.tensor([0]), before=torch.tensor([2.0, 0.0]).expand(2, 2, 2), **options
    )
    assert moved.divergence > 0.1


def test_targets_stop_at_documents_and_at_the_end():
    labels = torch.tensor([[-100, 11, 12, -100, 14]])
    documents = torch.tensor([[0, 0, 0, 1, 1]])
    found = targets(labels, documents, torch.tensor([0, 1, 3, 4]), 2)
    assert found.tolist() == [[[11, 12], [12, -100], [14, -100], [-100, -100]]]


def test_one_sample_has_no_baseline():
    with pytest.raises(ValueError, match="at least 2"):
        quiet_loss(
            by_hand([0.5, 0.5], torch.zeros(2, 1, 1)), Constant(0.0), torch.zeros(2, 1, 1, dtype=torch.long),
            torch.tensor([0]), samples=1, policy_weight=0.0, divergence_weight=0.0,
        )  # fmt: skip
