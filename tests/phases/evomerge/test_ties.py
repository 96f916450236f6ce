import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.phases.evomerge.task_vectors import elect_each
from agent_forge.phases.evomerge.ties import (
    global_threshold,
    global_thresholds,
    keep_at_least,
    kth_magnitude,
    ties,
    trim_tensor,
)

TRUNK = torch.tensor([1.0, 1.0, 1.0, 1.0])
A = TRUNK + torch.tensor([4.0, -3.0, 0.1, 2.0])
B = TRUNK + torch.tensor([2.0, 1.0, 0.2, -2.0])


def test_the_paper_by_hand() -> None:
    # Half is kept: A loses 0.1 and 2, B loses 1 and 0.2. Signs: +, −, none, −. Means over those that agree.
    merged = ties(TRUNK, [A, B], weights=[1, 1], densities=[0.5, 0.5])
    assert (merged - TRUNK).tolist() == [3.0, -3.0, 0.0, -2.0]


def test_dividing_by_weights_counts_or_nothing() -> None:
    tensors, weights = [A, B], [1.0, 3.0]
    common = {"weights": weights, "densities": [0.5, 0.5]}
    by_count = ties(TRUNK, tensors, **common)[0] - TRUNK[0]
    by_weights = ties(TRUNK, tensors, divide_by="weights", **common)[0] - TRUNK[0]
    plain = ties(TRUNK, tensors, divide_by="none", **common)[0] - TRUNK[0]
    assert (by_count.item(), by_weights.item(), plain.item()) == (5.0, 2.5, 10.0)


def test_a_tie_of_signs_elects_nobody_or_plus() -> None:
    trunk, a, b = torch.zeros(1), torch.tensor([2.0]), torch.tensor([-2.0])
    assert ties(trunk, [a, b], weights=[1, 1], densities=[1, 1]).item() == 0.0
    assert ties(trunk, [a, b], weights=[1, 1], densities=[1, 1], zero_is_positive=True).item() == 2.0


def test_scopes_differ_when_tensors_have_different_scales() -> None:
    small, large = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    threshold = global_threshold(lambda: [small, large], 0.5)
    assert threshold == 1.0
    assert keep_at_least(small.clone(), threshold).tolist() == [0, 0, 0, 0]
    assert keep_at_least(large.clone(), threshold).tolist() == large.tolist()
    assert trim_tensor(small.clone(), 0.5).tolist() == pytest.approx([0, 0, 0.3, 0.4])


@given(st.integers(0, 300), st.floats(0.01, 0.99), st.integers(1, 5))
def test_the_global_threshold_is_the_exact_order_statistic(seed: int, density: float, parts: int) -> None:
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(3 + 17 * i, generator=g) * 10.0 ** (i - 2) for i in range(parts)]
    joined = torch.cat(tensors).abs()
    k = max(1, int(density * joined.numel()))
    assert global_threshold(lambda: tensors, density) == float(joined.sort(descending=True).values[k - 1])


@given(st.integers(0, 300), st.lists(st.sampled_from([i / 32 for i in range(33)]), min_size=1, max_size=12))
def test_many_thresholds_at_once_are_those_found_one_by_one(seed: int, densities: list[float]) -> None:
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(200, generator=g), torch.randn(31, generator=g).round(decimals=1)]
    together = global_thresholds(lambda: tensors, densities)
    assert together == [global_threshold(lambda: tensors, density) for density in densities]


@given(st.integers(0, 300), st.integers(1, 40))
def test_the_kth_magnitude_is_that_of_a_sort(seed: int, k: int) -> None:
    tensor = torch.randn(40, generator=torch.Generator().manual_seed(seed))
    before = tensor.clone()
    assert kth_magnitude(tensor, k) == float(tensor.abs().sort(descending=True).values[k - 1])
    assert torch.equal(tensor, before)


def test_ends_of_the_range() -> None:
    delta = torch.tensor([1.0, -2.0, 3.0])
    assert trim_tensor(delta.clone(), 1.0).tolist() == [1, -2, 3]
    assert trim_tensor(delta.clone(), 0.0).tolist() == [0, 0, 0]
    assert trim_tensor(delta.clone(), 0.01).tolist() == [0, 0, 3]  # at least one
    assert global_threshold(lambda: [delta], 1.0) == 0.0
    assert global_threshold(lambda: [delta], 0.0) == float("inf")
    assert trim_tensor(torch.empty(0), 0.5).numel() == 0
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match=str(bad)):
            trim_tensor(delta.clone(), bad)
        with pytest.raises(ValueError, match=str(bad)):
            global_threshold(lambda: [delta], bad)


def test_one_model_is_trimmed_only_and_weight_zero_takes_no_part() -> None:
    alone = ties(TRUNK, [A], weights=[1], densities=[0.5])
    assert (alone - TRUNK).tolist() == [4.0, -3.0, 0.0, 0.0]
    assert torch.equal(ties(TRUNK, [A, B], weights=[1, 0], densities=[0.5, 0.5]), alone)
    assert torch.equal(ties(TRUNK, [A, B], weights=[0, 0], densities=[1, 1]), TRUNK)


def test_slices_do_not_show() -> None:
    g = torch.Generator().manual_seed(0)
    trunk, a, b = (torch.randn(300_001, generator=g) for _ in range(3))
    whole = ties(trunk, [a, b], weights=[1, 2], densities=[0.3, 0.4])
    d_a, d_b = trim_tensor(a - trunk, 0.3), 2 * trim_tensor(b - trunk, 0.4)
    sign = (d_a + d_b).sign()
    agree_a, agree_b = d_a * sign > 0, d_b * sign > 0
    expected = trunk + (d_a * agree_a + d_b * agree_b) / (agree_a.float() + agree_b.float()).clamp(min=1)
    assert torch.allclose(whole, expected, atol=1e-6)


def test_electing_apart_has_the_disjoint_mean_as_its_mean() -> None:
    g = torch.Generator().manual_seed(1)
    deltas = [torch.randn(50, generator=g) for _ in range(3)]
    weights = [0.5, 0.2, 0.3]
    expected = ties(torch.zeros(50), deltas, weights=weights, densities=[1, 1, 1], divide_by="weights")
    apart = [delta.clone() for delta in deltas]
    elect_each(apart, weights)
    mean = sum(weight * delta for weight, delta in zip(weights, apart, strict=True))
    assert torch.allclose(mean, expected, atol=1e-6)
