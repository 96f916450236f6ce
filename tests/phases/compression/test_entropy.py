"""rANS: round trips on every kind of statistics, close to the entropy, strict about its input."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.phases.compression.entropy import decode_symbols, encode_symbols


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_decode_inverts_encode(alphabet, data):
    symbols = np.array(data.draw(st.lists(st.integers(0, alphabet - 1), max_size=200)), dtype=np.int64)
    stream = encode_symbols(symbols, alphabet)
    assert np.array_equal(decode_symbols(stream, alphabet, symbols.size), symbols)


@pytest.mark.parametrize("shares", [[0.5, 0.25, 0.25], [0.98, 0.01, 0.01], [1.0, 0.0, 0.0], [0.9999, 0.0001, 0.0]])
def test_the_entropy_is_reached(shares):
    symbols = np.random.default_rng(0).choice(3, size=200_000, p=shares)
    found = np.bincount(symbols, minlength=3) / symbols.size
    entropy = -sum(share * np.log2(share) for share in found if share > 0)
    bits = 8 * (len(encode_symbols(symbols, 3)) - 3) / symbols.size
    assert entropy - 1e-9 <= bits < entropy + 0.002


@pytest.mark.parametrize(("symbols", "alphabet"), [([3], 3), ([-1], 3), ([0], 0), ([0], 9000)])
def test_what_is_no_alphabet_is_refused(symbols, alphabet):
    with pytest.raises(ValueError, match="alphabet"):
        encode_symbols(np.array(symbols), alphabet)


def test_a_cut_stream_is_refused():
    stream = encode_symbols(np.zeros(5, dtype=np.int64), 3)
    with pytest.raises(ValueError, match="cannot have"):
        decode_symbols(stream[:2], 3, 5)
