"""Ternary blocks of GGUF: TQ1_0 (54 bytes for 256 weights) and TQ2_0 (66 bytes), as llama.cpp computes them.

Source: llama.cpp's pull request 8151 (compilade 2024) describes both; parity is tested bit for bit against the
``gguf`` package, which is the reference of the format.

- TQ2_0: two halves of 128 weights; byte j of a half holds weights j, j + 32, j + 64, j + 96 in its bit pairs, low
  pair first, each as code + 1. Then the scale in fp16.
- TQ1_0: digits of base 3, five to a byte: bytes 0–31 hold weights j + 32·k of the first 160 (k = 0 … 4, first most
  significant), bytes 32–47 hold weights 160 + j + 16·k of the next 80, bytes 48–51 hold four weights each of the
  last 16 with a step of 4. A byte stores ⌈256 · value / 243⌉ and not the value, so that multiplying by 3 and taking
  the carry reads the next digit. Then the scale in fp16.

A block has one scale, so the scales of a matrix must not change inside 256 columns: per tensor or per row.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor

BLOCK = 256
BLOCK_BYTES = {"TQ1_0": 54, "TQ2_0": 66}


def pack_gguf(codes: Tensor, scale: Tensor, kind: str) -> npt.NDArray[np.uint8]:
    """Blocks of one matrix.

    Args:
        codes: int8 {−1, 0, 1} [out, in], in divisible by 256.
        scale: [out or 1, 1], fp16 numbers.
        kind: "TQ1_0" or "TQ2_0".

    Returns:
        uint8 [out, in / 256 · bytes of a block], as `gguf.GGUFWriter.add_tensor` takes it.

    Raises:
        ValueError: an unknown kind, columns that 256 does not divide, or several scales in a row.
    """
    _check(codes.shape, kind)
    if scale.shape[1] != 1:
        raise ValueError(f"{kind} holds one scale per 256 weights, this matrix has {scale.shape[1]} scales a row")
    digits = (codes.numpy() + np.int8(1)).astype(np.uint8).reshape(codes.shape[0], -1, BLOCK)
    # A block without a weight has no scale: that is what llama.cpp writes.
    scales = np.broadcast_to(scale.numpy().reshape(-1, 1), digits.shape[:2]) * (digits != 1).any(-1)
    half = scales.astype(np.float16)[..., None].view(np.uint8)
    packed = _tq1(digits) if kind == "TQ1_0" else _tq2(digits)
    return np.concatenate([packed, half], axis=-1).reshape(codes.shape[0], -1)


def unpack_gguf(packed: npt.NDArray[np.uint8], kind: str) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Codes int8 [out, in] and the scale of every block float32 [out, in / 256]; the inverse of `pack_gguf`."""
    if kind not in BLOCK_BYTES or packed.shape[1] % BLOCK_BYTES[kind]:
        raise ValueError(f"rows of {packed.shape[1]} bytes are not blocks of {kind}")
    blocks = packed.reshape(packed.shape[0], -1, BLOCK_BYTES[kind])
    scales = np.ascontiguousarray(blocks[..., -2:]).view(np.float16)[..., 0].astype(np.float32)
    digits = _tq1_digits(blocks[..., :-2]) if kind == "TQ1_0" else _tq2_digits(blocks[..., :-2])
    return (digits.astype(np.int8) - np.int8(1)).reshape(packed.shape[0], -1), scales


def _tq2(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pairs = digits.reshape(*digits.shape[:2], 2, 4, 32)
    packed = pairs[..., 0, :] | pairs[..., 1, :] << 2 | pairs[..., 2, :] << 4 | pairs[..., 3, :] << 6
    return packed.reshape(*digits.shape[:2], 64).astype(np.uint8)


def _tq2_digits(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    halves = packed.reshape(*packed.shape[:2], 2, 1, 32)
    shifts = np.arange(0, 8, 2, dtype=np.uint8).reshape(4, 1)
    return (halves >> shifts & 3).astype(np.uint8).reshape(*packed.shape[:2], BLOCK)


# Of the 256 weights of a TQ1_0 block: (first, end, bytes), and the digits that a byte of that part holds.
_TQ1_PARTS = ((0, 160, 32, 5), (160, 240, 16, 5), (240, 256, 4, 4))


def _tq1(digits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    parts = []
    for first, end, width, count in _TQ1_PARTS:
        planes = digits[..., first:end].reshape(*digits.shape[:2], count, width).astype(np.uint16)
        places = np.array([81, 27, 9, 3, 1], dtype=np.uint16)[:count].reshape(-1, 1)
        parts.append((planes * places).sum(-2, dtype=np.uint16))
    values = np.concatenate(parts, axis=-1)
    return ((values * np.uint16(256) + np.uint16(242)) // np.uint16(243)).astype(np.uint8)


def _tq1_digits(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    parts, offset = [], 0
    for _, _, width, count in _TQ1_PARTS:
        byte = packed[..., None, offset : offset + width]
        powers = np.array([1, 3, 9, 27, 81], dtype=np.uint8)[:count].reshape(-1, 1)
        # uint8 wraps: what is left after the carries of the earlier digits.
        planes = ((byte * powers).astype(np.uint16) * 3 >> 8).astype(np.uint8)
        parts.append(planes.reshape(*packed.shape[:2], width * count))
        offset += width
    return np.concatenate(parts, axis=-1)


def _check(shape: tuple[int, ...], kind: str) -> None:
    if kind not in BLOCK_BYTES:
        raise ValueError(f"kind must be one of {sorted(BLOCK_BYTES)}, got {kind!r}")
    if len(shape) != 2 or shape[1] % BLOCK:
        raise ValueError(f"{kind} needs a matrix whose columns {BLOCK} divides, got shape {tuple(shape)}")
