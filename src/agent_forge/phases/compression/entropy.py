"""Entropy coding of small integers with statistics of their own (rANS, through `constriction`).

Duda 2013, "Asymmetric numeral systems", arXiv:1311.2540; the stack coder of `constriction` (Bamler 2022,
arXiv:2201.01741). A stream is a table of 16-bit frequencies followed by the coded words. The frequencies are
rounded to integers of a fixed total before they reach the coder: encoder and decoder then build the same model
from exact binary fractions, on every machine.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

_TOTAL = 1 << 16
_MAX_SYMBOLS = 1 << 13


def encode_symbols(symbols: NDArray[Any], num_symbols: int) -> bytes:
    """Codes integers in [0, num_symbols) close to their empirical entropy.

    Raises:
        ValueError: an alphabet above 8,192, or a symbol outside it.
    """
    if not 1 <= num_symbols <= _MAX_SYMBOLS:
        raise ValueError(f"the alphabet must have 1–{_MAX_SYMBOLS} symbols, got {num_symbols}")
    flat = np.ascontiguousarray(symbols, dtype=np.int32).reshape(-1)
    if flat.size and (flat.min() < 0 or flat.max() >= num_symbols):
        raise ValueError(f"symbols {flat.min()}–{flat.max()} leave the alphabet of {num_symbols}")
    frequencies = _frequencies(np.bincount(flat, minlength=num_symbols))
    header = (frequencies - 1).astype("<u2").tobytes()  # 1–65,536 as 16 bits
    if num_symbols == 1 or not flat.size:
        return header
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(flat, _model(frequencies))
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return header + words


def decode_symbols(stream: bytes, num_symbols: int, count: int) -> NDArray[np.int32]:
    """Inverse of `encode_symbols`.

    Raises:
        ValueError: a stream too short for its table, or of a length that is not whole words.
    """
    table = 2 * num_symbols
    if len(stream) < table or (len(stream) - table) % 4:
        raise ValueError(f"a stream of {num_symbols} symbols cannot have {len(stream)} bytes")
    if num_symbols == 1 or count == 0:
        return np.zeros(count, dtype=np.int32)
    frequencies = np.frombuffer(stream[:table], dtype="<u2").astype(np.int64) + 1
    words = np.frombuffer(stream[table:], dtype="<u4").astype(np.uint32)
    decoded: NDArray[np.int32] = constriction.stream.stack.AnsCoder(words).decode(_model(frequencies), count)
    return decoded


def _frequencies(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Counts scaled to a total near 65,536; every symbol keeps at least 1 so that it stays codable."""
    total = max(1, int(counts.sum()))
    return np.clip(counts * _TOTAL // total, 1, _TOTAL)


def _model(frequencies: NDArray[np.int64]) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(frequencies / float(frequencies.sum()), perfect=False)
