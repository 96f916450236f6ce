import pytest
import torch
import torch.nn.functional as F

from agent_forge.phases.cognate.cross_entropy import chunked_cross_entropy


def example(count=37, size=12, vocabulary=29):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, size, generator=generator, requires_grad=True)
    head = torch.randn(vocabulary, size, generator=generator, requires_grad=True)
    return hidden, head, torch.randint(vocabulary, (count,), generator=generator)


@pytest.mark.parametrize("soft_cap", [0.0, 5.0])
@pytest.mark.parametrize("piece", [5, 37, 100])
def test_loss_and_gradients_equal_the_plain_ones(soft_cap, piece):
    hidden, head, labels = example()
    logits = hidden @ head.T
    logits = soft_cap * torch.tanh(logits / soft_cap) if soft_cap else logits
    plain = F.cross_entropy(logits, labels)
    expected = torch.autograd.grad(3 * plain, (hidden, head))
    loss, nats, correct = chunked_cross_entropy(hidden, head, labels, soft_cap=soft_cap, piece=piece)
    found = torch.autograd.grad(3 * loss, (hidden, head))
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(nats, F.cross_entropy(logits, labels, reduction="none").detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(correct, logits.argmax(1) == labels)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_under_autocast_it_stays_close():
    hidden, head, labels = example()
    plain = F.cross_entropy(hidden @ head.T, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, *_ = chunked_cross_entropy(hidden.bfloat16(), head, labels)
    loss.backward()
    torch.testing.assert_close(loss.detach(), plain.detach(), rtol=0, atol=0.05)
    assert head.grad.dtype == torch.float32


def test_refuses_nothing_to_predict():
    hidden, head, labels = example()
    with pytest.raises(ValueError, match="no positions"):
        chunked_cross_entropy(hidden[:0], head, labels[:0])
