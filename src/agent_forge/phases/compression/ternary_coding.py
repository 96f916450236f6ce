"""Ternary tensors without loss: five values a byte, or arithmetic coding with the tensor's own statistics.

Absmean ternary weights (Ma et al. 2024, arXiv:2402.17764) of a Gaussian have 1.583 bits of entropy. Base 3 packs
five of them into a byte (3⁵ = 243 ≤ 256): 1.6 bits and random access. rANS with the frequencies of the tensor
reaches the entropy; it gains more where training made zeros frequent. The smaller of the two is stored.

1. The codes are recovered from the values themselves: a tensor is ternary for a group size g when every run of
   g weights along the row holds at most {−γ, 0, γ}. The largest group that fits is used, because scales cost
   bytes. The same is done for the two- and four-bit fallbacks of a ternary model, (code + ½)·s and code·s.
2. Scales: `exact` (the shortest of fp16, bf16, fp32 that holds them), or `linear8`: 8 bits between the smallest
   and the largest scale of the tensor, rounded to fp16 again, so that the tensor stays exactly ternary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float
from agent_forge.phases.compression.entropy import decode_symbols, encode_symbols
from agent_forge.phases.compression.plain import compress_bytes, decompress_bytes, from_groups, to_groups

GROUP_SIZES = (256, 128, 64, 32)
"""Sizes tried after the whole tensor and the whole row, largest first."""

SCALE_FORMS = ("exact", "linear8")
LEVELS = (3, 4, 15)
"""Codes {−1, 0, 1}; {−2 … 1} + ½; {−7 … 7}: the layouts of a ternary model and its two fallbacks."""

_PER_BYTE = 5
_POWERS = np.array([1, 3, 9, 27, 81], dtype=np.int64)
_FLOATS = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class LevelGroups:
    """Codes int8 [rows, groups, size] (padding is 0), fp32 scales [rows, groups], number of levels."""

    codes: Tensor
    scales: Tensor
    levels: int


def find_levels(tensor: Tensor) -> LevelGroups | None:
    """Codes and scales that give the tensor back exactly, or None where no layout does."""
    if tensor.dim() < 2 or not tensor.is_floating_point() or tensor.numel() == 0:
        return None
    values = tensor.detach().float()
    if not bool(torch.isfinite(values).all()):
        return None
    row = values.shape[-1]
    sizes = [values.numel(), row, *(size for size in GROUP_SIZES if size < row)]
    for levels in LEVELS:
        for size in sizes:
            grouped = _grouped(values, size)
            codes, scales = _read_off(grouped, levels)
            found = LevelGroups(codes, scales, levels)
            if torch.equal(_ungrouped(_values(found), values.shape, size), values):
                return found
    return None


def encode(tensor: Tensor, *, scales: str = "exact") -> Encoded:
    """Stores a tensor of 3, 4 or 15 levels.

    Args:
        tensor: at least two dimensions, scale × code per group.
        scales: one of `SCALE_FORMS`.

    Raises:
        ValueError: a tensor that has more levels, or an unknown form of scales.
    """
    if scales not in SCALE_FORMS:
        raise ValueError(f"unknown form of scales {scales!r}; the forms are {', '.join(SCALE_FORMS)}")
    flat_float(tensor)
    found = find_levels(tensor)
    if found is None:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} is not scale × code with {LEVELS} levels")
    form, scale_bytes, extra = _encode_scales(found.scales, scales)
    group = found.codes.shape[2]
    live = _ungrouped(found.codes, tensor.shape, group).reshape(-1)  # padding is not stored
    symbols = live.numpy().astype(np.int64) + found.levels // 2
    coded = encode_symbols(symbols, found.levels)
    packed = pack_base3(symbols) if found.levels == 3 else coded
    header: dict[str, Any] = {"group": group, "scales": form, "scale_bytes": len(scale_bytes), **extra}
    header |= {"levels": found.levels, "rans": len(coded) <= len(packed)}
    payload = scale_bytes + (coded if header["rans"] else packed)
    return Encoded("ternary", tuple(tensor.shape), dtype_name(tensor), header, payload)


def decode(encoded: Encoded) -> Tensor:
    """(code + offset) · scale, one multiplication a weight."""
    header, count = encoded.header, encoded.num_weights
    split, group, levels = int(header["scale_bytes"]), int(header["group"]), int(header["levels"])
    stream = encoded.payload[split:]
    symbols = decode_symbols(stream, levels, count) if header["rans"] else unpack_base3(stream, count)
    codes = _grouped(torch.from_numpy(symbols.astype(np.int8) - levels // 2).view(encoded.shape), group)
    scales = _decode_scales(encoded.payload[:split], header, codes.shape[0] * codes.shape[1])
    values = _values(LevelGroups(codes, scales.view(codes.shape[:2]), levels))
    return finish(_ungrouped(values, torch.Size(encoded.shape), group), encoded)


def pack_base3(symbols: NDArray[Any]) -> bytes:
    """Five values of {0, 1, 2} a byte, the first in the lowest digit."""
    padded = np.ones(-(-symbols.size // _PER_BYTE) * _PER_BYTE, dtype=np.int64)
    padded[: symbols.size] = symbols
    return (padded.reshape(-1, _PER_BYTE) @ _POWERS).astype(np.uint8).tobytes()


def unpack_base3(payload: bytes, count: int) -> NDArray[np.int64]:
    """Inverse of `pack_base3`.

    Raises:
        ValueError: another number of bytes than ``count`` values take, or a byte above 242.
    """
    raw = np.frombuffer(payload, dtype=np.uint8).astype(np.int64)
    if raw.size != -(-count // _PER_BYTE) or (raw.size and raw.max() >= 3**_PER_BYTE):
        raise ValueError(f"{raw.size} bytes are not {count} base-3 values")
    return (raw[:, None] // _POWERS % 3).reshape(-1)[:count]


def _grouped(tensor: Tensor, size: int) -> Tensor:
    """[rows, groups, size]; one group where a single scale holds for the whole tensor."""
    return tensor.reshape(1, 1, -1) if size == tensor.numel() else to_groups(tensor, size)


def _ungrouped(grouped: Tensor, shape: torch.Size, size: int) -> Tensor:
    return grouped.reshape(shape) if size == shape.numel() else from_groups(grouped, tuple(shape))


def _read_off(grouped: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """Scale from the largest value of a group (the smallest for 4 levels), codes by rounding."""
    magnitude = grouped.abs()
    scales = magnitude.amin(dim=2) * 2 if levels == 4 else magnitude.amax(dim=2) / (levels // 2)
    divisor = torch.where(scales > 0, scales, torch.inf)[..., None]
    if levels == 4:
        return torch.floor(grouped / divisor).clamp(-2, 1).to(torch.int8), scales
    return torch.round(grouped / divisor).clamp(-(levels // 2), levels // 2).to(torch.int8), scales


def _values(groups: LevelGroups) -> Tensor:
    offset = 0.5 if groups.levels == 4 else 0.0
    return (groups.codes.float() + offset) * groups.scales[..., None]


def _encode_scales(scales: Tensor, form: str) -> tuple[str, bytes, dict[str, Any]]:
    """Form that is stored, bytes, extra header entries."""
    flat = scales.reshape(-1)
    low, high = float(flat.min()), float(flat.max())
    if form == "linear8" and high > low:
        step = float(np.float32((high - low) / 255))
        raw = torch.round((flat - low) / step).clamp(0, 255).to(torch.uint8).numpy().tobytes()
        coded = compress_bytes(raw)
        extra = {"low": low, "step": step, "zstd": len(coded) < len(raw)}
        return "linear8", coded if extra["zstd"] else raw, extra
    name = next(name for name, dtype in _FLOATS.items() if torch.equal(flat.to(dtype).float(), flat))
    view = torch.int32 if name == "fp32" else torch.int16
    return name, flat.to(_FLOATS[name]).view(view).numpy().tobytes(), {}


def _decode_scales(raw: bytes, header: Any, count: int) -> Tensor:
    if header["scales"] == "linear8":
        codes = np.frombuffer(decompress_bytes(raw) if header["zstd"] else raw, dtype=np.uint8)
        values = codes.astype(np.float32) * np.float32(header["step"])
        out = torch.from_numpy((values + np.float32(header["low"])).astype(np.float16).astype(np.float32))
    else:
        dtype = _FLOATS[header["scales"]]
        view = np.int32 if header["scales"] == "fp32" else np.int16
        out = torch.from_numpy(np.frombuffer(raw, dtype=view).copy()).view(dtype).float()
    if out.numel() != count:
        raise ValueError(f"{out.numel()} scales for {count} groups")
    return out
