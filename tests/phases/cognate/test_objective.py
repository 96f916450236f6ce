import math

import pytest
import torch

from agent_forge.model.halting import HaltingHead
from agent_forge.phases.cognate.objective import (
    Weights,
    coherence_loss,
    composite_loss,
    diversity_loss,
    pooled_segments,
)


def example(steps=1):
    generator = torch.Generator().manual_seed(0)
    hidden = [torch.randn(2, 8, 6, generator=generator) for _ in range(steps)]
    head = torch.randn(11, 6, generator=generator)
    labels = torch.randint(11, (2, 8), generator=generator)
    labels[0, :3] = -100
    return hidden, head, labels, torch.zeros(2, 8, dtype=torch.long)


def test_with_one_step_it_is_the_plain_shifted_loss_whatever_the_step_weights():
    hidden, head, labels, documents = example()
    loss, parts = composite_loss(hidden, [], head, labels, documents, Weights(steps=(0.5, 1.0)))
    logits = hidden[0][:, :-1].reshape(-1, 6) @ head.T
    plain = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(loss, plain)
    assert set(parts) == {"loss/next_token", "loss/step_0", "accuracy/step_0"}


def test_deep_supervision_is_the_weighted_mean_of_the_steps():
    hidden, head, labels, documents = example(steps=3)
    loss, parts = composite_loss(hidden, [], head, labels, documents, Weights(supervised_fraction=1.0))
    expected = (0.5 * parts["loss/step_0"] + 0.75 * parts["loss/step_1"] + 1.0 * parts["loss/step_2"]) / 2.25
    torch.testing.assert_close(loss, expected)


def test_halting_learns_only_when_its_head_is_given():
    hidden, head, labels, documents = example(steps=2)
    halting = HaltingHead(6, 2)
    logits = [torch.zeros(2, 8, requires_grad=True) for _ in range(2)]
    arguments = (hidden, logits, head, labels, documents, Weights(halting=1.0, supervised_fraction=1.0))
    silent, parts = composite_loss(*arguments)
    assert "loss/halting" not in parts
    before = halting.step_accuracy.clone()
    loud, parts = composite_loss(*arguments, halting=halting)
    torch.testing.assert_close(loud - silent, parts["loss/halting"])
    assert not torch.equal(halting.step_accuracy, before)


def test_gate_entropy_is_raised():
    hidden, head, labels, documents = example()
    entropy = torch.tensor(0.5)
    arguments = (hidden, [], head, labels, documents)
    with_gate, _ = composite_loss(*arguments, Weights(gate_entropy=0.1), gate_entropy=entropy)
    without, _ = composite_loss(*arguments, Weights(gate_entropy=0.0), gate_entropy=entropy)
    assert float(with_gate - without) == pytest.approx(-0.05, rel=1e-4)


def test_segments_stay_inside_documents():
    hidden = torch.arange(12.0).view(1, 12, 1)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, -1, -1]])
    pooled, follows = pooled_segments(hidden, documents, 2)
    assert pooled.flatten().tolist() == [0.5, 2.5, 4.5, 6.5, 8.5]
    assert follows.tolist() == [1, -1, 3, 4, -1]


def test_coherence_by_hand():
    pooled = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    follows = torch.tensor([1, -1, 3, -1])
    # Each anchor has its twin at similarity 1 and two strangers at 0.
    expected = -math.log(math.exp(10) / (math.exp(10) + 2))
    assert float(coherence_loss(pooled, follows)) == pytest.approx(expected, abs=1e-6)
    assert float(coherence_loss(pooled, torch.full((4,), -1))) == 0.0


def test_diversity_prefers_independent_features():
    generator = torch.Generator().manual_seed(0)
    independent = 2 * torch.randn(200, 4, generator=generator)
    copied = independent[:, :1].expand(-1, 4)
    collapsed = torch.zeros(200, 4)
    assert float(diversity_loss(independent)) < 0.02 < float(diversity_loss(copied))
    assert float(diversity_loss(collapsed)) == pytest.approx(0.99, abs=0.01)
    assert float(diversity_loss(independent[:1])) == 0.0
