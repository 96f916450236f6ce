import pytest
import torch

from agent_forge.model.attention import TokenLayout
from agent_forge.model.convolution import Crossings, GivenTaps, ShortConvolution


def layout(documents=None, valid=None, shape=(2, 9)):
    return TokenLayout(torch.arange(shape[1])[None], documents, valid)


def by_loop(x, weight, documents):
    y = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for t in range(x.shape[1]):
            for back in range(min(weight.shape[1], t + 1)):
                if documents is None or documents[row, t] == documents[row, t - back]:
                    y[row, t] = y[row, t] + weight[:, back] * x[row, t - back]
    return y


@pytest.mark.parametrize("width", [1, 2, 4, 12])
@pytest.mark.parametrize("documents", [None, torch.tensor([[0, 0, 1, 2, 2, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 5, 6, -1]])])
def test_values_and_gradients_equal_a_loop(width, documents):
    torch.manual_seed(0)
    module = ShortConvolution(6, width).double()
    module.weight.data.normal_()
    x = torch.randn(2, 9, 6, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(2, 9, 6, dtype=torch.double)
    found = module(x, Crossings(layout(documents), width), None, "")
    expected = by_loop(x, module.weight, documents)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (x, module.weight), upstream)
    for got, want in zip(torch.autograd.grad(found, (x, module.weight), upstream), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_a_text_cut_anywhere_gives_the_same():
    module = ShortConvolution(3, 4)
    module.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1))
    whole = module(x, Crossings(layout(), 4), None, "")
    for cut in range(1, 9):
        states: dict = {}
        parts = [module(part, Crossings(layout(), 4), states, "a") for part in (x[:, :cut], x[:, cut:])]
        torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_padding_is_as_if_it_were_not_there():
    module = ShortConvolution(3, 4)
    module.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 9, 3, generator=torch.Generator().manual_seed(1))
    valid = torch.tensor([[False] * 4 + [True] * 5])
    padded = module(x, Crossings(layout(valid=valid), 4), None, "")
    torch.testing.assert_close(padded[:, 4:], module(x[:, 4:], Crossings(layout(), 4), None, ""))


def branches():
    """A text of four tokens and, behind it, two tokens of a thought after the second and two after the fourth."""
    positions = torch.tensor([[0, 1, 2, 3, 2, 4, 3, 5]])
    pasts = [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 4], [0, 1, 2, 3, 5], [0, 1, 4, 6], [0, 1, 2, 3, 5, 7]]
    visible = torch.zeros(1, 8, 8, dtype=torch.bool)
    for token, past in enumerate(pasts):
        visible[0, token, past] = True
    return positions, visible, pasts


@pytest.mark.parametrize("width", [1, 2, 4])
def test_taps_follow_a_given_mask_as_if_each_branch_were_a_row_of_its_own(width):
    torch.manual_seed(0)
    positions, visible, pasts = branches()
    module = ShortConvolution(3, width).double()
    module.weight.data.normal_()
    x = torch.randn(2, 8, 3, dtype=torch.double, requires_grad=True)
    upstream = torch.randn(2, 8, 3, dtype=torch.double)
    found = module(x, GivenTaps(visible, positions, positions, width), None, "")
    expected = torch.stack([by_loop(x[:, past], module.weight, None)[:, -1] for past in pasts], 1)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (x, module.weight), upstream)
    for got, want in zip(torch.autograd.grad(found, (x, module.weight), upstream), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_taps_follow_a_given_mask_through_a_cache_and_refuse_a_foreign_one():
    positions, visible, _ = branches()
    module = ShortConvolution(3, 4)
    module.weight.data.normal_(generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(1))
    whole = module(x, GivenTaps(visible, positions, positions, 4), None, "")
    states: dict = {}
    parts = []
    for start, stop in ((0, 4), (4, 6), (6, 8)):
        taps = GivenTaps(visible[:, start:stop, :stop], positions[:, start:stop], positions[:, :stop], 4)
        parts.append(module(x[:, start:stop], taps, states, "a"))
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    states = {}
    module(x[:, :6], Crossings(layout(shape=(2, 6)), 4), states, "a")
    with pytest.raises(ValueError, match="a mask over 8 tokens, but the convolution remembers 5"):
        module(x[:, 6:], GivenTaps(visible[:, 6:], positions[:, 6:], positions, 4), states, "a")


def test_a_tap_with_nothing_to_see_sees_zero():
    module = ShortConvolution(1, 2)
    module.weight.data.fill_(1.0)
    alone = GivenTaps(torch.eye(2, dtype=torch.bool)[None], torch.tensor([[0, 1]]), torch.tensor([[0, 1]]), 2)
    assert module(torch.tensor([[[3.0], [5.0]]]), alone, None, "").flatten().tolist() == [3.0, 5.0]
