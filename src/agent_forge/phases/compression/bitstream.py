"""Encoded tensors, and integers of a fixed width packed without a gap.

Every codec of this phase gives an `Encoded`: what the manifest of a `.forge` file needs to decode the
tensor (codec, shape, dtype, a small JSON header) plus the payload whose bytes are counted.
Bits run from the least significant to the most, values one after the other, little-endian bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_CHUNK_VALUES = 1 << 18  # bounds the one-byte-a-bit scratch array to a few MB


@dataclass(frozen=True)
class Encoded:
    """One tensor as bytes.

    Attributes:
        codec: key of the table in `codecs.py`.
        shape: shape of the decoded tensor.
        dtype: name of its torch dtype, such as "float32".
        header: JSON values that the decoder needs.
        payload: the bytes; their length is what the tensor costs.
        shared: names of byte strings in the same file that several tensors use (codebooks).
    """

    codec: str
    shape: tuple[int, ...]
    dtype: str
    header: Mapping[str, Any]
    payload: bytes
    shared: tuple[str, ...] = field(default=())

    @property
    def num_weights(self) -> int:
        """Number of weights of the decoded tensor."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bits_per_weight(self) -> float:
        """Bits of payload per weight (shared codebooks and the manifest are counted by the file)."""
        return 8 * len(self.payload) / max(1, self.num_weights)


def dtype_name(tensor: Tensor) -> str:
    """ "float32" for torch.float32."""
    return str(tensor.dtype).removeprefix("torch.")


def finish(values: Tensor, encoded: Encoded) -> Tensor:
    """Decoded values in the shape and dtype that the encoder was given."""
    return values.reshape(encoded.shape).to(getattr(torch, encoded.dtype))


def flat_float(tensor: Tensor) -> Tensor:
    """The weights as one fp32 row.

    Raises:
        ValueError: not a floating tensor, or values that are not finite.
    """
    if not tensor.is_floating_point():
        raise ValueError(f"a floating tensor was expected, got {tensor.dtype} of shape {tuple(tensor.shape)}")
    flat = tensor.detach().reshape(-1).float()
    if not bool(torch.isfinite(flat).all()):
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} holds values that are not finite")
    return flat


def pack_bits(values: NDArray[Any], width: int) -> bytes:
    """Packs unsigned integers below 2**width, ``width`` bits each.

    Raises:
        ValueError: a width outside 1–63 or a value that does not fit.
    """
    if not 1 <= width <= 63:
        raise ValueError(f"width must be in 1–63 bits, got {width}")
    unsigned = np.ascontiguousarray(values, dtype=np.uint64).reshape(-1)
    if unsigned.size and int(unsigned.max()) >> width:
        raise ValueError(f"value {int(unsigned.max())} does not fit in {width} bits")
    shifts = np.arange(width, dtype=np.uint64)
    step = _CHUNK_VALUES // 8 * 8  # a multiple of 8 values ends on a byte
    parts = []
    for start in range(0, unsigned.size, step):
        bits = (unsigned[start : start + step, None] >> shifts) & np.uint64(1)
        parts.append(np.packbits(bits.astype(np.uint8).reshape(-1), bitorder="little").tobytes())
    return b"".join(parts)


def unpack_bits(payload: bytes, width: int, count: int) -> NDArray[np.int64]:
    """Inverse of `pack_bits`: the first ``count`` values.

    Raises:
        ValueError: a payload of another length than ``count`` values take.
    """
    expected = (count * width + 7) // 8
    if len(payload) != expected:
        raise ValueError(f"{count} values of {width} bits take {expected} bytes, got {len(payload)}")
    raw = np.frombuffer(payload, dtype=np.uint8)
    weights = np.left_shift(np.int64(1), np.arange(width, dtype=np.int64))
    step = _CHUNK_VALUES // 8 * 8
    out = np.empty(count, dtype=np.int64)
    for start in range(0, count, step):
        stop = min(count, start + step)
        chunk = raw[start * width // 8 : (stop * width + 7) // 8]
        bits = np.unpackbits(chunk, bitorder="little", count=(stop - start) * width)
        out[start:stop] = bits.reshape(-1, width).astype(np.int64) @ weights
    return out
