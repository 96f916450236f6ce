"""SeedLM: the register by hand, the published errors, exactness against all 65,535 seeds."""

from __future__ import annotations

import math

import pytest
import torch

from agent_forge.phases.compression import seedlm


def test_register_by_hand():
    # state 1: feedback = bit 0 = 1 → 0x8000; then bits 0,1,3,12 are 0 → 0x4000 …; 0x1000 has bit 12 → 0x8800
    states = seedlm._states(8, 3)[1]
    assert states[:5].tolist() == [0x8000, 0x4000, 0x2000, 0x1000, 0x8800]


def test_register_visits_every_state_but_zero():
    successor = seedlm._states(8, 3)[:, 0].astype(int)
    state, count = int(successor[1]), 1
    while state != 1:
        state, count = int(successor[state]), count + 1
    assert count == 65_535


@pytest.mark.parametrize(("bits", "error"), [(4, 0.1230), (3, 0.2257)])
def test_published_error_and_exact_bit_budget(bits, error):
    weights = torch.randn(24 * 240, generator=torch.Generator().manual_seed(bits)) * 1e-3
    encoded = seedlm.encode(weights, bits=bits)
    assert encoded.bits_per_weight == bits
    measured = float((seedlm.decode(encoded) - weights).norm() / weights.norm())
    # the error of one block has a deviation of about 30% (4 bits) of the mean square
    assert measured == pytest.approx(error, abs=0.004)


@pytest.mark.parametrize(("bits", "blocks"), [(4, 200), (3, 40)])
def test_search_finds_the_minimum_over_all_seeds(bits, blocks):
    block, rank = seedlm.LAYOUTS[bits]
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(blocks, block, generator=generator)
    weights[::7] *= torch.randn(len(weights[::7]), block, generator=generator).exp()  # heavy tails too
    exact, fast = seedlm.search_exhaustively(weights, rank=rank), seedlm.search(weights, rank=rank)
    assert torch.equal(fast.errors, exact.errors)
    assert torch.equal(fast.seeds, exact.seeds)
    assert torch.equal(fast.coefficients, exact.coefficients)


def test_number_of_first_candidates_changes_speed_and_not_the_result():
    weights = torch.randn(30, 8, generator=torch.Generator().manual_seed(2))
    few, many = (seedlm.search(weights, rank=3, candidates=count) for count in (1, 256))
    assert torch.equal(few.seeds, many.seeds)


def test_decoding_is_the_search_reconstruction():
    weights = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    encoded = seedlm.encode(weights, bits=4)
    scale = encoded.header["scale"]
    found = seedlm.search(weights / scale, rank=3)
    basis = seedlm._bases(8, 3)[found.seeds]
    steps = torch.exp2(found.exponents.double())
    rebuilt = (basis @ (found.coefficients.double() * steps[:, None])[..., None])[..., 0] * scale
    assert torch.allclose(seedlm.decode(encoded).double(), rebuilt, rtol=1e-6, atol=1e-7)


def test_printed_exponent_rule_would_be_worse():
    """Why ours is ceil(log2(max|t| / 7.5)): the printed floor(log2 max|t|) wastes codes."""
    weights = torch.randn(60, 8, generator=torch.Generator().manual_seed(4)).double()
    inverse, basis = seedlm._pseudo_inverses(8, 3), seedlm._bases(8, 3)
    ours = seedlm.search(weights.float(), rank=3).errors.sum()
    printed = 0.0
    for block in weights:
        exact = inverse[1:] @ block
        step = torch.exp2(torch.floor(torch.log2(exact.abs().amax(dim=1))))[:, None]
        rounded = torch.round(exact / step).clamp(-8, 7) * step
        printed += float(((basis[1:] @ rounded[..., None])[..., 0] - block).square().sum(dim=1).min())
    assert math.sqrt(printed / float(weights.square().sum())) == pytest.approx(0.191, abs=0.02)
    assert float(ours) < 0.6 * printed


def test_other_bit_counts_are_refused():
    with pytest.raises(ValueError, match=r"\[3, 4\] bits a weight, got 2"):
        seedlm.encode(torch.ones(8), bits=2)
