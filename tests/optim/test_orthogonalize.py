import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.optim.orthogonalize import (
    effective_rank_fraction,
    newton_schulz,
    orthogonality_error,
    orthogonalize,
    polar_factor,
)


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_the_polar_factor_of_a_scaled_rotation_is_the_rotation():
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    torch.testing.assert_close(polar_factor(3.0 * rotation), rotation)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
def test_singular_values_end_near_one_and_directions_stay(rows, columns, seed):
    given_matrix = matrix(rows, columns, seed)
    (result,) = [m.clone() for m in orthogonalize([given_matrix], dtype=torch.float32)]
    left, values, right = torch.linalg.svd(given_matrix, full_matrices=False)
    inside = torch.diagonal(left.T @ result @ right.T)
    # A direction below 1% of the norm is too weak for five steps.
    strong = values > 0.01 * given_matrix.norm()
    assert result.shape == given_matrix.shape
    assert inside[strong].min() > 0.45
    assert inside.max() < 1.3


def test_order_and_values_do_not_depend_on_the_company():
    mixed = [matrix(12, 8, 1), matrix(8, 12, 2), matrix(5, 5, 3), matrix(12, 8, 4)] * 3
    together = [m.clone() for m in orthogonalize(mixed, dtype=torch.float32)]
    alone = [next(iter(orthogonalize([m], dtype=torch.float32))).clone() for m in mixed]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-6)


def test_three_steps_are_coarser_than_five_and_svd_is_exact():
    given_matrix = matrix(32, 48)

    def error(**options):
        return orthogonality_error(next(iter(orthogonalize([given_matrix], dtype=torch.float32, **options))))

    assert error(method="svd") < 1e-5
    assert error(steps=5) < 0.4
    assert error(steps=1) > error(steps=5)


def test_zero_stays_zero():
    result = next(iter(orthogonalize([torch.zeros(4, 6)])))
    assert torch.equal(result.float(), torch.zeros(4, 6))


def test_effective_rank_of_identity_is_full_and_of_a_dyad_is_one():
    assert effective_rank_fraction(torch.eye(8)) == pytest.approx(1.0)
    assert effective_rank_fraction(torch.outer(torch.arange(1.0, 9.0), torch.ones(8))) == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.parametrize(
    ("matrices", "options", "message"),
    [
        ([torch.zeros(3)], {}, "2-D"),
        ([torch.eye(2)], {"steps": 0}, "at least 1"),
        ([torch.eye(2)], {"method": "qr"}, "qr"),
    ],
)
def test_refuses(matrices, options, message):
    with pytest.raises(ValueError, match=message):
        list(orthogonalize(matrices, **options))


def test_newton_schulz_refuses_tall_stacks():
    with pytest.raises(ValueError, match="rows ≤ columns"):
        newton_schulz(torch.zeros(1, 4, 2))
