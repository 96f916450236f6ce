import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.model.attention import TokenLayout, document_positions
from agent_forge.model.memory import EmaMemory, exponential_average


def by_loop(x, documents, decay=0.99):
    out, state = torch.zeros_like(x), torch.zeros(x.shape[0], x.shape[2], dtype=x.dtype)
    for t in range(x.shape[1]):
        if t:
            state = state * (documents[:, t] == documents[:, t - 1])[:, None]
        state = decay * state + (1 - decay) * x[:, t]
        out[:, t] = state
    return out


def layout(documents):
    return TokenLayout(document_positions(documents), documents)


def test_checked_on_paper():
    found, (state, at) = exponential_average(
        torch.tensor([[[100.0], [0.0], [100.0]]]), TokenLayout(torch.arange(3)[None])
    )
    torch.testing.assert_close(found[0, :, 0], torch.tensor([1.0, 0.99, 1.9801]))
    torch.testing.assert_close(state, torch.tensor([[1.9801]]))
    assert at.tolist() == [[2]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 999))
def test_equals_a_loop_for_any_chunk_and_any_documents(length, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, length, 3, generator=generator)
    documents = (torch.rand(2, length, generator=generator) < 0.15).long().cumsum(1)
    found, _ = exponential_average(x, layout(documents), chunk=chunk)
    torch.testing.assert_close(found, by_loop(x, documents), atol=1e-6, rtol=1e-4)


def test_state_handed_over_equals_state_recomputed():
    x = torch.randn(2, 30, 3, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(30)[None]
    whole, _ = exponential_average(x, TokenLayout(positions), chunk=7)
    for cut in (1, 13, 29):
        first, state = exponential_average(x[:, :cut], TokenLayout(positions[:, :cut]), chunk=7)
        second, _ = exponential_average(x[:, cut:], TokenLayout(positions[:, cut:]), chunk=7, state=state)
        torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_padding_neither_writes_nor_passes_time():
    x = torch.randn(1, 12, 3, generator=torch.Generator().manual_seed(0))
    alone, _ = exponential_average(x[:, 5:], TokenLayout(torch.arange(7)[None]))
    valid = torch.tensor([[False] * 5 + [True] * 7])
    positions = (valid.long().cumsum(1) - 1).clamp(min=0)
    padded, _ = exponential_average(x, TokenLayout(positions, valid=valid))
    torch.testing.assert_close(padded[:, 5:], alone)


def test_a_token_changes_nothing_before_it_and_everything_after():
    x = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
    plain = TokenLayout(torch.arange(20)[None])
    before, _ = exponential_average(x, plain, chunk=4)
    x[0, 9] += 1
    after, _ = exponential_average(x, plain, chunk=4)
    assert torch.equal(after[:, :9], before[:, :9])
    assert (after[:, 9:] != before[:, 9:]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_starts_silent_and_keeps_the_dtype(dtype):
    module = EmaMemory(8, 4).to(dtype)
    torch.nn.init.zeros_(module.up_proj.weight)
    x = torch.randn(2, 5, 8, dtype=dtype)
    found = module(x, TokenLayout(torch.arange(5)[None]))
    assert found.dtype == dtype
    assert torch.equal(found, torch.zeros_like(x))
