import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.optim.slerp import AntiParallelWarning, iterated_slerp, slerp


def test_a_right_angle_by_hand() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    half = math.sqrt(0.5)
    assert slerp(a, b, 0.5).flatten().tolist() == pytest.approx([half, half])
    third = slerp(a, b, 1 / 3).flatten().tolist()
    assert third == pytest.approx([math.cos(math.pi / 6), math.sin(math.pi / 6)])


@given(st.floats(0, 1), st.integers(0, 500))
def test_unit_tensors_stay_on_the_sphere_and_ends_are_exact(t: float, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    a, b = (torch.nn.functional.normalize(torch.randn(1, 6, generator=g)) for _ in range(2))
    assert float(slerp(a, b, t).norm()) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(slerp(a, b, 0.0), a, atol=1e-6)
    assert torch.allclose(slerp(a, b, 1.0), b, atol=1e-6)


def test_norms_are_interpolated_not_lost() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 6.0]])
    assert slerp(a, b, 0.5).flatten().tolist() == pytest.approx([2 * math.sqrt(0.5), 6 * math.sqrt(0.5)])


def test_nearly_parallel_zero_and_one_dimensional_tensors_are_interpolated_linearly() -> None:
    a = torch.tensor([[1.0, 0.0]])
    assert slerp(a, 3 * a, 0.5).tolist() == [[2.0, 0.0]]
    assert slerp(a, torch.zeros(1, 2), 0.25).tolist() == [[0.75, 0.0]]
    x, y = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert slerp(x, y, 0.5).tolist() == [0.5, 0.5]
    assert slerp(x, y, 0.5, vectors="slerp").tolist() == pytest.approx([math.sqrt(0.5)] * 2)


def test_anti_parallel_tensors_are_warned_about() -> None:
    a = torch.tensor([[1.0, 1.0]])
    with pytest.warns(AntiParallelWarning, match=r"-1\.0"):
        assert slerp(a, -a, 0.5).abs().max() < 1e-6


def test_three_parents_weigh_the_same() -> None:
    # Corrections, row 17: with a second t of 1/2 the last parent would make up half of the result.
    parents = [torch.eye(3)[i : i + 1] for i in range(3)]
    merged = iterated_slerp(parents, weights=[1, 1, 1]).flatten()
    wrong = slerp(slerp(parents[0], parents[1], 0.5), parents[2], 0.5).flatten()
    assert merged[2] == pytest.approx(0.5, abs=1e-4)  # sin(30°): one third of the right angle to the third axis
    assert merged[0] == pytest.approx(math.cos(math.pi / 6) * math.sqrt(0.5), abs=1e-4)
    assert wrong[2] > 0.7 > merged.max()


def test_weights_of_zero_are_skipped_and_negative_ones_refused() -> None:
    a, b = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    assert torch.equal(iterated_slerp([a, b], weights=[0, 2]), b)
    with pytest.raises(ValueError, match="-1"):
        iterated_slerp([a, b], weights=[1, -1])
    with pytest.raises(ValueError, match=r"\[0, 0\]"):
        iterated_slerp([a, b], weights=[0, 0])


def test_refuses_tensors_of_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"cannot interpolate \(2,\) with \(3,\)"):
        slerp(torch.zeros(2), torch.zeros(3), 0.5)
