import pytest
import torch

from agent_forge.model.attention import TokenLayout
from agent_forge.model.convolution import Crossings, ShortConvolution


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
