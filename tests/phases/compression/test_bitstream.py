"""Bit packing: by hand, and as an identity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.phases.compression.bitstream import flat_float, pack_bits, unpack_bits


def test_three_values_of_three_bits_by_hand():
    # 5 = 101, 2 = 010, 7 = 111, least significant bit first: 101 010 11|1 0000000
    assert pack_bits(np.array([5, 2, 7]), 3) == bytes([0b11010101, 0b1])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.lists(st.integers(0, 2**40 - 1), max_size=70))
def test_unpack_inverts_pack(width, values):
    fitting = np.array([value % 2**width for value in values], dtype=np.int64)
    packed = pack_bits(fitting, width)
    assert len(packed) == (len(values) * width + 7) // 8
    assert np.array_equal(unpack_bits(packed, width, len(values)), fitting)


def test_long_streams_cross_the_chunk_border():
    values = np.random.default_rng(0).integers(0, 2**5, 600_001)
    assert np.array_equal(unpack_bits(pack_bits(values, 5), 5, values.size), values)


@pytest.mark.parametrize(("values", "width"), [([8], 3), ([0], 0), ([0], 64)])
def test_what_does_not_fit_is_refused(values, width):
    with pytest.raises(ValueError, match=str(width)):
        pack_bits(np.array(values), width)


def test_a_stream_of_another_length_is_refused():
    with pytest.raises(ValueError, match="3 values of 3 bits take 2 bytes, got 1"):
        unpack_bits(b"\x00", 3, 3)


@pytest.mark.parametrize("bad", [torch.tensor([1]), torch.tensor([float("nan")]), torch.tensor([float("inf")])])
def test_only_finite_floats_are_weights(bad):
    with pytest.raises(ValueError, match=r"float|finite"):
        flat_float(bad)
