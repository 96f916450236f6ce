"""The floor: the formats that anybody would pick first, each followed by zstd.

`native` keeps every bit. `fp16` rounds. `int8` has one fp16 scale a row (absmax, as in Dettmers et al. 2022,
arXiv:2208.07339, section 2.1, without its outlier columns). `int4` is round-to-nearest with one fp16 scale per
group of 64 along the row. Bytes of one significance are stored together before zstd (byte planes), because the
high bytes of floats repeat and the low ones do not.

A payload is kept uncompressed where zstd does not make it smaller; the header says which.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float, pack_bits, unpack_bits

FORMATS = ("native", "fp16", "int8", "int4")
INT4_GROUP = 64
_ZSTD_LEVEL = 19
_INTEGER_VIEW = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def encode(tensor: Tensor, *, form: str) -> Encoded:
    """Stores a tensor in one of `FORMATS`.

    Args:
        tensor: any shape; floating for every format but `native`.
        form: one of `FORMATS`.

    Raises:
        ValueError: an unknown format, or values outside fp16 for `fp16`.
    """
    if form == "native":
        return _finished(tensor, _planes(tensor), {"form": form})
    if form == "fp16":
        half = flat_float(tensor).half()
        if not bool(torch.isfinite(half).all()):
            raise ValueError(f"fp16 cannot hold {float(tensor.abs().max()):.4g}")
        return _finished(tensor, _planes(half), {"form": form})
    if form not in FORMATS:
        raise ValueError(f"unknown plain format {form!r}; the formats are {', '.join(FORMATS)}")
    flat_float(tensor)  # refuses integers and values that are not finite
    bits, group = (8, _row_length(tensor)) if form == "int8" else (4, INT4_GROUP)
    codes, scales = round_to_nearest(tensor, levels=2**bits - 1, group=group)
    return encode_rounded(tensor, codes, scales, bits=bits)


def encode_rounded(tensor: Tensor, codes: Tensor, scales: Tensor, *, bits: int) -> Encoded:
    """Stores codes and scales that some rounding of ``tensor`` gave.

    Args:
        tensor: gives shape and dtype.
        codes: int8 [rows, groups, group] in −2^(bits−1) … 2^(bits−1) − 1.
        scales: fp16 [rows, groups].
        bits: bits a code.
    """
    unsigned = codes.numpy().astype(np.int64) & ((1 << bits) - 1)
    header = {"form": "rounded", "bits": bits, "group": codes.shape[2]}
    return _finished(tensor, _planes(scales) + pack_bits(unsigned, bits), header)


def decode(encoded: Encoded) -> Tensor:
    """The stored values; `native` is the input bit for bit.

    Raises:
        ValueError: a payload that does not hold the tensor.
    """
    form, count = encoded.header["form"], encoded.num_weights
    raw = decompress_bytes(encoded.payload) if encoded.header["zstd"] else encoded.payload
    if form == "native":
        return _from_planes(raw, getattr(torch, encoded.dtype), count).reshape(encoded.shape)
    if form == "fp16":
        return finish(_from_planes(raw, torch.float16, count).float(), encoded)
    bits, group = int(encoded.header["bits"]), int(encoded.header["group"])
    return finish(_decode_rounded(raw, bits, group, encoded.shape), encoded)


def round_to_nearest(tensor: Tensor, *, levels: int, group: int) -> tuple[Tensor, Tensor]:
    """Symmetric round-to-nearest with one fp16 absmax scale per group along the row.

    Args:
        tensor: any shape; rows are its last dimension.
        levels: 2·half + 1 codes are used, half = (levels − 1) // 2 (255 for int8, 15 for int4).
        group: weights a scale; the last group of a row may be shorter.

    Returns:
        codes int8 [rows, groups, group] (padded with zeros) and fp16 scales [rows, groups].
    """
    half = (levels - 1) // 2
    grouped = to_groups(tensor.detach().float(), group)
    scales = (grouped.abs().amax(dim=2) / half).half()
    if not bool(torch.isfinite(scales).all()):
        raise ValueError("the scales of this tensor leave the range of fp16")
    safe = torch.where(scales == 0, 1.0, scales.float())
    codes = torch.round(grouped / safe[..., None]).clamp(-half, half)
    return torch.where(scales[..., None] == 0, 0.0, codes).to(torch.int8), scales


def to_groups(tensor: Tensor, group: int) -> Tensor:
    """[..., C] → [rows, ceil(C / group), group], padded with zeros."""
    rows = tensor.reshape(-1, _row_length(tensor))
    num_groups = -(-rows.shape[1] // group)
    padded = torch.zeros(rows.shape[0], num_groups * group, dtype=rows.dtype)
    padded[:, : rows.shape[1]] = rows
    return padded.view(rows.shape[0], num_groups, group)


def from_groups(grouped: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Inverse of `to_groups` (flat where the shape is a scalar)."""
    row = shape[-1] if shape else 1
    return grouped.reshape(grouped.shape[0], -1)[:, :row].reshape(shape)


def compress_bytes(raw: bytes) -> bytes:
    """zstd -19 without a content checksum: the file has its own digests."""
    compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=False)
    return compressor.compress(raw)


def decompress_bytes(payload: bytes, *, limit: int = 1 << 34) -> bytes:
    """Inverse of `compress_bytes`.

    Raises:
        ValueError: not a zstd frame, or one that claims more than ``limit`` bytes.
    """
    try:
        size = zstandard.frame_content_size(payload)
        if not 0 <= size <= limit:
            raise ValueError(f"a zstd frame claims {size} bytes, the limit is {limit}")
        return zstandard.ZstdDecompressor().decompress(payload)
    except zstandard.ZstdError as error:
        raise ValueError(f"not a zstd frame: {error}") from error


def _finished(tensor: Tensor, raw: bytes, header: dict[str, Any]) -> Encoded:
    packed = compress_bytes(raw)
    header["zstd"] = len(packed) < len(raw)
    return Encoded("plain", tuple(tensor.shape), dtype_name(tensor), header, packed if header["zstd"] else raw)


def _decode_rounded(raw: bytes, bits: int, group: int, shape: tuple[int, ...]) -> Tensor:
    row = shape[-1] if shape else 1
    rows = int(np.prod(shape[:-1], dtype=np.int64)) if shape else 1
    num_groups = -(-row // group) if row else 0
    scale_bytes = 2 * rows * num_groups
    scales = _from_planes(raw[:scale_bytes], torch.float16, rows * num_groups).float()
    codes = unpack_bits(raw[scale_bytes:], bits, rows * num_groups * group)
    sign = 1 << (bits - 1)
    signed = torch.from_numpy(((codes ^ sign) - sign).astype(np.float32))
    values = signed.view(rows, num_groups, group) * scales.view(rows, num_groups, 1)
    return from_groups(values, shape)


def _row_length(tensor: Tensor) -> int:
    return max(1, tensor.shape[-1]) if tensor.dim() else 1


def _planes(tensor: Tensor) -> bytes:
    """Little-endian bytes, those of one significance together."""
    flat = tensor.detach().contiguous().reshape(-1)
    size = flat.element_size()
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    raw: NDArray[np.uint8] = flat.view(_INTEGER_VIEW[size]).numpy().view(np.uint8)
    return raw.reshape(-1, size).T.tobytes()


def _from_planes(raw: bytes, dtype: torch.dtype, count: int) -> Tensor:
    size = torch.empty(0, dtype=dtype).element_size()
    if len(raw) != count * size:
        raise ValueError(f"{count} values of {dtype} take {count * size} bytes, got {len(raw)}")
    planes = np.frombuffer(raw, dtype=np.uint8).reshape(size, count).T.copy()
    if count == 0:
        return torch.empty(0, dtype=dtype)
    return torch.from_numpy(planes.reshape(-1)).view(dtype)
