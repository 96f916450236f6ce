"""The BitNet layout of ``transformers``: four ternary rows in one row of bytes, and two meanings of one scale.

Source: ``transformers/integrations/bitnet.py`` (Apache-2.0, studied, not copied). A matrix [out, in] is stored as
uint8 [out / 4, in]; bit pair i of row r holds output row i · (out / 4) + r as code + 1. Quarters are interleaved,
not neighbours.

``weight_scale`` means 1 / γ for ``linear_class: bitlinear``, which divides by it, and γ for ``autobitlinear``,
which multiplies. The wrong one is off by γ², so writer and reader here both name their convention.
"""

from __future__ import annotations

import torch
from torch import Tensor

LINEAR_CLASSES = ("bitlinear", "autobitlinear")


def pack_transformers(codes: Tensor) -> Tensor:
    """int8 {−1, 0, 1} [out, in] → uint8 [out / 4, in].

    Raises:
        ValueError: 4 does not divide the rows.
    """
    if codes.ndim != 2 or codes.shape[0] % 4:
        raise ValueError(f"the BitNet layout of transformers needs rows divisible by 4, got {tuple(codes.shape)}")
    quarters = (codes + 1).to(torch.uint8).view(4, codes.shape[0] // 4, codes.shape[1])
    return quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6


def unpack_transformers(packed: Tensor) -> Tensor:
    """uint8 [out / 4, in] → int8 {−1, 0, 1} [out, in]; the inverse of `pack_transformers`."""
    return torch.cat([packed >> shift & 3 for shift in (0, 2, 4, 6)]).to(torch.int8) - 1


def weight_scale(scale: Tensor, linear_class: str) -> Tensor:
    """What ``transformers`` stores as ``weight_scale`` [1] for γ ``scale`` [1, 1]; its own inverse.

    Raises:
        ValueError: more than one scale, γ = 0, or an unknown class.
    """
    if linear_class not in LINEAR_CLASSES:
        raise ValueError(f"linear_class must be one of {LINEAR_CLASSES}, got {linear_class!r}")
    if scale.numel() != 1:
        raise ValueError(
            f"the BitNet layout of transformers holds one scale per tensor, this one has {scale.numel()}; "
            "quantize with group size 0 (per tensor) to export to it"
        )
    if not float(scale) > 0:
        raise ValueError(f"a scale of {float(scale)} cannot be stored: the tensor holds only zeros")
    return (1 / scale if linear_class == "bitlinear" else scale).reshape(1)
