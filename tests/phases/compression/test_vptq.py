"""VPTQ: exact round trips with shared codebooks, odd rows, residual stage and outlier columns."""

from __future__ import annotations

import pytest
import torch

from agent_forge.phases.compression import vptq
from agent_forge.phases.compression.hessian import collect, weighted_error


def matrices(count: int = 2, out: int = 30, width: int = 24) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(out, width, generator=generator) for _ in range(count)]
    inputs = [torch.randn(200, width, generator=generator) * torch.linspace(0.2, 2, width) for _ in range(count)]
    return weights, [x.T @ x / 200 for x in inputs]


def encode(weights, hessians, **settings):
    defaults = {"name": "book", "vector": 4, "centroids": 32, "iterations": 6}
    return vptq.encode(weights, hessians, generator=torch.Generator().manual_seed(1), **{**defaults, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"residual_centroids": 16},
        {"outlier_columns": 3},
        {"vector": 7},
        {"residual_centroids": 8, "outlier_columns": 1},
    ],
)
def test_stored_bytes_decode_to_what_the_pass_chose(settings):
    weights, hessians = matrices()
    encoded, shared = encode(weights, hessians, **settings)
    again, shared_again = encode(weights, hessians, **settings)
    assert [one.payload for one in encoded] == [one.payload for one in again]
    assert shared == shared_again
    for one, weight, hessian in zip(encoded, weights, hessians, strict=True):
        decoded = vptq.decode(one, shared)
        assert decoded.shape == weight.shape
        assert weighted_error(decoded - weight, hessian) < 0.5 * weighted_error(weight, hessian)


def test_residual_codebook_and_outlier_columns_lower_the_error():
    weights, hessians = matrices()

    def error(**settings) -> float:
        encoded, shared = encode(weights, hessians, **settings)
        return sum(
            weighted_error(vptq.decode(one, shared) - w, h)
            for one, w, h in zip(encoded, weights, hessians, strict=True)
        )

    assert error(residual_centroids=32) < 0.7 * error()
    assert error(outlier_columns=4) < error()


def test_a_missing_codebook_is_named():
    encoded, _ = encode(*matrices())
    with pytest.raises(ValueError, match="codebook 'book' has 0 numbers"):
        vptq.decode(encoded[0], {})


@pytest.mark.parametrize(
    "change",
    [{"centroids": 1}, {"vector": 0}, {"residual_centroids": 9000}, {"outlier_columns": 24}],
)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(ValueError, match="out of range"):
        encode(*matrices(), **change)


def test_unequal_shapes_are_refused():
    weights, hessians = matrices()
    with pytest.raises(ValueError, match="one shape"):
        encode([weights[0], weights[1][:-1]], hessians)


def test_zero_and_constant_matrices():
    weights = [torch.zeros(8, 6), torch.full((8, 6), 0.5)]
    encoded, shared = encode(weights, [torch.eye(6)] * 2, centroids=4)
    decoded = [vptq.decode(one, shared) for one in encoded]
    assert torch.equal(decoded[0], weights[0])
    assert torch.allclose(decoded[1], weights[1], atol=1e-3)


def test_hessian_of_hooks_is_that_of_the_inputs():
    class Stub(torch.nn.Module):
        """The smallest thing with linear layers that takes token ids."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 4)
            self.first = torch.nn.Linear(4, 3, bias=False)

        def forward(self, input_ids):
            return self.first(self.embed(input_ids))

    model = Stub()
    batches = [torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])]
    found = collect(model, batches, ["first.weight", "none.weight"])
    inputs = model.embed(torch.tensor([1, 2, 3, 4, 5])).detach()
    assert set(found) == {"first.weight"}
    assert torch.allclose(found["first.weight"], inputs.T @ inputs / 5, atol=1e-6)
    assert not model.first._forward_pre_hooks
