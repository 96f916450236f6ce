"""Blocked attention: hand example, agreement with the fused kernel, gradients, refusals."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.model.blocked_attention import BLOCK, blocked_attention


def _inputs(shape: tuple[int, int, int, int], total: int, dtype: torch.dtype, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    batch, heads, count, size = shape
    return [
        torch.randn(batch, heads, length, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for length in (count, total, total)
    ]


def test_two_tokens_by_hand() -> None:
    query = torch.tensor([[[[1.0], [1.0]]]])
    key = torch.tensor([[[[0.0], [torch.log(torch.tensor(3.0))]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])
    # the first token sees itself alone; the second weighs 1 : 3
    assert torch.allclose(blocked_attention(query, key, value).flatten(), torch.tensor([4.0, 7.0]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3 * BLOCK), st.integers(0, BLOCK + 3), st.integers(0, 1000))
def test_equals_the_fused_kernel_forward_and_backward(count: int, past: int, seed: int) -> None:
    total = count + past
    tensors = _inputs((2, 2, count, 8), total, torch.float64, seed)
    index = torch.arange(total)
    visible = index[past:, None] >= index[None]
    # documents: some keys are hidden at random, never a token from itself
    hidden = torch.rand(2, 1, count, total, generator=torch.Generator().manual_seed(seed)) < 0.3
    visible = visible & (~hidden | (index[past:, None] == index[None]))
    mask = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, float("-inf"))
    weights = torch.randn(2, 2, count, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ours = blocked_attention(*tensors, mask)
    fused = F.scaled_dot_product_attention(*tensors, attn_mask=mask)
    assert torch.allclose(ours, fused, atol=1e-12)
    found = torch.autograd.grad(ours, tensors, weights)
    expected = torch.autograd.grad(fused, tensors, weights)
    assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(found, expected, strict=True))


def test_bf16_is_as_near_to_float64_as_the_fused_kernel() -> None:
    exact = _inputs((2, 3, 200, 32), 200, torch.float64, 1)
    rounded = [x.detach().bfloat16().requires_grad_() for x in exact]
    weights = torch.ones(2, 3, 200, 32, dtype=torch.float64)

    def run(tensors: list[torch.Tensor], fused: bool) -> list[torch.Tensor]:
        out = F.scaled_dot_product_attention(*tensors, is_causal=True) if fused else blocked_attention(*tensors)
        return [out, *torch.autograd.grad(out, tensors, weights.to(out.dtype))]

    truth = run(exact, True)
    for ours, fused, true in zip(run(rounded, False), run(rounded, True), truth, strict=True):
        assert (ours.double() - true).norm() < 2 * (fused.double() - true).norm()


def test_later_tokens_do_not_reach_earlier_ones() -> None:
    query, key, value = _inputs((1, 1, 100, 4), 100, torch.float32, 2)
    out = blocked_attention(query, key, value)
    gradient = torch.autograd.grad(out[:, :, 69].sum(), value)[0]
    assert gradient[:, :, 70:].abs().sum() == 0
    assert gradient[:, :, :70].abs().sum() > 0


def test_refuses_what_does_not_fit() -> None:
    query, key, value = _inputs((1, 1, 5, 4), 4, torch.float32, 3)
    with pytest.raises(ValueError, match="5 queries stand at the end of 4 keys"):
        blocked_attention(query, key, value)
    with pytest.raises(ValueError, match="queries × keys are"):
        blocked_attention(value, key, value, torch.zeros(1, 1, 4, 5))
