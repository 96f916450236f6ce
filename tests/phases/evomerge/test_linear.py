import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.phases.evomerge.linear import linear


def test_by_hand() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -2.0])
    assert linear([a, b], weights=[3, 1]).tolist() == [1.5, 1.0]
    assert linear([a, b], weights=[3, 1], normalize=False).tolist() == [6.0, 4.0]


def test_negative_weights_extrapolate_and_a_sum_of_zero_is_refused() -> None:
    a, b = torch.tensor([1.0]), torch.tensor([3.0])
    assert linear([a, b], weights=[-1, 2]).item() == 5.0
    with pytest.raises(ValueError, match=r"\[1, -1\] sum to 0"):
        linear([a, b], weights=[1, -1])


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.integers(0, 1000))
def test_equal_parents_give_themselves(weights: list[float], seed: int) -> None:
    tensor = torch.randn(7, generator=torch.Generator().manual_seed(seed))
    merged = linear([tensor] * len(weights), weights=weights)
    assert torch.allclose(merged, tensor, rtol=1e-5, atol=1e-7)


def test_half_precision_is_averaged_in_single_precision_and_inputs_stay() -> None:
    a = torch.tensor([1.0, 256.0], dtype=torch.bfloat16)
    b = torch.tensor([1.0078125, 258.0], dtype=torch.bfloat16)
    merged = linear([a, b], weights=[1, 1])
    assert merged.dtype == torch.float32
    assert merged.tolist() == [1.00390625, 257.0]
    assert a.tolist() == [1.0, 256.0]
