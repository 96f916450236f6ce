"""Entropy coding of small integers with statistics of their own (rANS, through `constriction`).

Duda 2013, "Asymmetric numeral systems", arXiv:1311.2540; the stack coder of `constriction` (Bamler 2022,
arXiv:2201.01741). A stream is a table of frequencies, one byte each (four bits of mantissa: the mismatch costs
0.0002 bits a symbol), followed by the coded words. Frequencies are integers before they reach the coder: encoder
and decoder build the same model on every machine.
"""

from __future__ import annotations

from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

_CODES = np.arange(256)
_FREQUENCIES = np.maximum(1, ((16 + _CODES % 16) << (_CODES // 16)) >> 4)
"""Byte → frequency, 1–63,488: mantissa in the low four bits, exponent in the high ones."""

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
    codes = _frequency_codes(np.bincount(flat, minlength=num_symbols))
    header = codes.astype(np.uint8).tobytes()
    if num_symbols == 1 or not flat.size:
        return header
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(flat, _model(_FREQUENCIES[codes]))
    words: bytes = coder.get_compressed().astype("<u4").tobytes()
    return header + words


def decode_symbols(stream: bytes, num_symbols: int, count: int) -> NDArray[np.int32]:
    """Inverse of `encode_symbols`.

    Raises:
        ValueError: a stream too short for its table, or of a length that is not whole words.
    """
    table = num_symbols
    if len(stream) < table or (len(stream) - table) % 4:
        raise ValueError(f"a stream of {num_symbols} symbols cannot have {len(stream)} bytes")
    if num_symbols == 1 or count == 0:
        return np.zeros(count, dtype=np.int32)
    frequencies = _FREQUENCIES[np.frombuffer(stream[:table], dtype=np.uint8)]
    words = np.frombuffer(stream[table:], dtype="<u4").astype(np.uint32)
    decoded: NDArray[np.int32] = constriction.stream.stack.AnsCoder(words).decode(_model(frequencies), count)
    return decoded


def _frequency_codes(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The byte nearest to each frequency; every symbol keeps at least 1 so that it stays codable."""
    wanted = np.clip(counts * int(_FREQUENCIES[-1]) // max(1, int(counts.max(initial=1))), 1, None)
    above = np.searchsorted(_FREQUENCIES, wanted)
    below = np.maximum(above - 1, 0)
    nearer = wanted - _FREQUENCIES[below] < _FREQUENCIES[above] - wanted
    return np.where(nearer, below, above)


def _model(frequencies: NDArray[np.int64]) -> constriction.stream.model.Categorical:
    return constriction.stream.model.Categorical(frequencies / float(frequencies.sum()), perfect=False)
