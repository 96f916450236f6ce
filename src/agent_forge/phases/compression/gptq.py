"""GPTQ: round-to-nearest whose errors are pushed on to the columns that are still free. The reference for VPTQ.

Frantar et al. 2022, arXiv:2210.17323. Differences:

1. Each group's scale is the one of smallest squared error among 24 shrunken absmax scales (the published code has
   this as an option, `mse`); at 2–3 bits the plain absmax grid wastes codes, and would make VPTQ look better than
   it is.
2. Groups run along the row in the original order of columns and their scales are fixed before the pass, so that
   columns may be visited in any order without storing a permutation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded
from agent_forge.phases.compression.hessian import push_errors
from agent_forge.phases.compression.plain import encode_rounded, to_groups

_SHRINK = torch.linspace(0.3, 1.0, 24)


def encode(weight: Tensor, *, hessian: Tensor, bits: int = 4, group: int = 0) -> Encoded:
    """Quantizes a matrix to ``bits`` bits with one fp16 scale per group.

    Args:
        weight: [out, in].
        hessian: [in, in].
        bits: 2–8.
        group: columns a scale; 0 = the whole row.

    Raises:
        ValueError: not a matrix, or bits outside 2–8.
    """
    if weight.dim() != 2 or not 2 <= bits <= 8:
        raise ValueError(f"a matrix and 2–8 bits are needed, got shape {tuple(weight.shape)} and {bits}")
    group = group or weight.shape[1]
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    scales = _best_scales(to_groups(weight.detach().float(), group), low, high)
    codes = torch.zeros(weight.shape, dtype=torch.int8)

    def rounder(column: Tensor, index: int) -> Tensor:
        scale = scales[:, index // group].float()
        codes[:, index] = torch.round(column / torch.where(scale > 0, scale, torch.inf)).clamp(low, high).to(torch.int8)
        return codes[:, index] * scale

    push_errors(weight, hessian, rounder)
    return encode_rounded(weight, to_groups(codes.float(), group).to(torch.int8), scales, bits=bits)


def _best_scales(grouped: Tensor, low: int, high: int) -> Tensor:
    """fp16 scale of smallest squared error per group: [rows, groups, size] → [rows, groups]."""
    peak = grouped.abs().amax(dim=2) / -low
    best, lowest = peak.half(), torch.full_like(peak, torch.inf)
    for shrink in _SHRINK:
        scale = (peak * shrink).half()
        safe = torch.where(scale > 0, scale.float(), torch.inf)[..., None]
        rounded = torch.round(grouped / safe).clamp(low, high) * scale.float()[..., None]
        error = (rounded - grouped).square().sum(dim=2)
        best, lowest = torch.where(error < lowest, scale, best), torch.minimum(error, lowest)
    return best
