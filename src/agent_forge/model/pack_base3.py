"""Ternary codes as base-3 digits: five to a byte, 1.6 bits each.

3⁵ = 243 fits in a byte. A Gaussian rounded by absmean has an entropy of 1.583 bits, so entropy coding of the codes
could save at most 1% more; it only pays where training made the weights sparser than that.

The first code of a byte is its most significant digit; the last byte is filled up with zeros (digit 1).
2-bit and 4-bit codes, for layers that were kept higher, lie 4 and 2 to a byte, the first in the low bits.
"""

from __future__ import annotations

import torch
from torch import Tensor

_PLACES = torch.tensor([81, 27, 9, 3, 1], dtype=torch.uint8)


def pack_base3(codes: Tensor) -> Tensor:
    """int8 {−1, 0, 1} of any shape → uint8 [⌈numel / 5⌉].

    Raises:
        ValueError: a code outside {−1, 0, 1}.
    """
    _check(codes, -1, 1)
    flat = codes.flatten()
    digits = torch.nn.functional.pad(flat, (0, -flat.numel() % 5)).add(1).to(torch.uint8).view(-1, 5)
    return (digits * _PLACES).sum(-1, dtype=torch.uint8)


def unpack_base3(packed: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 [⌈numel / 5⌉] → int8 {−1, 0, 1} of ``shape``; the inverse of `pack_base3`.

    Raises:
        ValueError: too many or too few bytes, or a byte above 242.
    """
    numel = _numel(shape)
    if packed.numel() != -(-numel // 5) or (numel and int(packed.max()) > 242):
        raise ValueError(f"{packed.numel()} bytes are not {numel} base-3 codes of shape {shape}")
    return _base3_digits()[packed.int()].view(-1)[:numel].view(shape)


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """int8 codes in [−2^(bits−1), 2^(bits−1)) of any shape → uint8, 8 / bits codes a byte; bits is 2 or 4."""
    if bits not in (2, 4):
        raise ValueError(f"bits must be 2 or 4, got {bits}")
    half, per_byte = 1 << (bits - 1), 8 // bits
    _check(codes, -half, half - 1)
    flat = codes.flatten()
    digits = torch.nn.functional.pad(flat, (0, -flat.numel() % per_byte)).add(half).to(torch.uint8)
    return (digits.view(-1, per_byte) << _shifts(bits)).sum(-1, dtype=torch.uint8)


def unpack_bits(packed: Tensor, shape: tuple[int, ...], bits: int) -> Tensor:
    """The inverse of `pack_bits`."""
    numel = _numel(shape)
    if bits not in (2, 4) or packed.numel() != -(-numel * bits // 8):
        raise ValueError(f"{packed.numel()} bytes are not {numel} codes of {bits} bits")
    digits = (packed[:, None] >> _shifts(bits)) & ((1 << bits) - 1)
    return (digits.to(torch.int8) - (1 << (bits - 1))).view(-1)[:numel].view(shape)


def _base3_digits() -> Tensor:
    """int8 [243, 5]: the five codes of every byte; a table look-up beats five divisions."""
    values = torch.arange(243, dtype=torch.int16)[:, None]
    return ((values // _PLACES.to(torch.int16)) % 3 - 1).to(torch.int8)


def _shifts(bits: int) -> Tensor:
    return torch.arange(0, 8, bits, dtype=torch.uint8)


def _numel(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _check(codes: Tensor, lowest: int, highest: int) -> None:
    if codes.dtype != torch.int8:
        raise ValueError(f"codes must be int8, got {codes.dtype}")
    if codes.numel() and (int(codes.min()) < lowest or int(codes.max()) > highest):
        raise ValueError(f"codes must lie in [{lowest}, {highest}], got [{int(codes.min())}, {int(codes.max())}]")
