"""Ternary coding: base 3 by hand, exactness for every layout, entropy reached."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from agent_forge.phases.compression import ternary_coding as coding


def ternary(rows: int, columns: int, group: int, *, levels: int = 3, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = levels // 2
    codes = torch.randint(-half, half + levels % 2, (rows, columns // group, group), generator=generator).float()
    codes[..., 0] = -half  # the largest code is present, as after absmean rounding
    codes[..., 1] = 0
    scales = (torch.rand(rows, columns // group, 1, generator=generator) + 0.1).half().float()
    return ((codes + (0.5 if levels == 4 else 0)) * scales).view(rows, columns)


def test_base3_by_hand():
    # digits 2,0,1,0,2 → 2 + 0·3 + 1·9 + 0·27 + 2·81 = 173; the rest of the last byte is 1 = zero weight
    assert coding.pack_base3(np.array([2, 0, 1, 0, 2])) == bytes([173])
    assert coding.unpack_base3(bytes([173]), 4).tolist() == [2, 0, 1, 0]
    with pytest.raises(ValueError, match="base-3"):
        coding.unpack_base3(bytes([243]), 5)


@pytest.mark.parametrize("levels", coding.LEVELS)
@pytest.mark.parametrize(("rows", "columns", "group"), [(6, 384, 64), (5, 96, 96), (4, 512, 256), (3, 128, 32)])
def test_lossless_for_every_layout(levels, rows, columns, group):
    tensor = ternary(rows, columns, group, levels=levels)
    encoded = coding.encode(tensor)
    assert torch.equal(coding.decode(encoded), tensor)
    assert encoded.header["levels"] == levels
    assert encoded.header["scales"] == "fp16"


def test_one_scale_for_the_whole_tensor_is_seen():
    tensor = ternary(1, 700, 700).view(7, 100)
    encoded = coding.encode(tensor)
    assert encoded.header["group"] == 700
    assert encoded.header["scale_bytes"] == 2
    assert torch.equal(coding.decode(encoded), tensor)


@pytest.mark.parametrize("tensor", [torch.zeros(3, 5), torch.full((2, 3), -0.5), torch.eye(4).bfloat16()])
def test_degenerate_tensors(tensor):
    assert torch.equal(coding.decode(coding.encode(tensor)), tensor)


def test_statistics_of_the_tensor_are_used():
    """90% zeros have 0.57 bits of entropy; base 3 would spend 1.6."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.where(torch.rand(256, 256, generator=generator) < 0.9, 0.0, 1.0) * torch.randn(
        256, 256, generator=generator
    ).sign()  # fmt: skip
    share = torch.bincount((codes + 1).long().reshape(-1)).double() / codes.numel()
    entropy = float(-(share * share.log2()).sum())
    encoded = coding.encode(codes * 0.5)
    assert encoded.header["rans"]
    assert entropy <= encoded.bits_per_weight < entropy + 0.01


def test_gaussian_absmean_reaches_its_entropy():
    weights = torch.randn(512, 256, generator=torch.Generator().manual_seed(2))
    scale = weights.abs().mean().half().float()
    encoded = coding.encode((weights / scale).round().clamp(-1, 1) * scale)
    assert encoded.bits_per_weight == pytest.approx(1.583, abs=0.003)


def test_eight_bit_scales_stay_ternary_and_close():
    tensor = ternary(64, 512, 64)
    decoded = coding.decode(coding.encode(tensor, scales="linear8"))
    assert coding.find_levels(decoded) is not None
    assert torch.equal(decoded.sign(), tensor.sign())
    assert float((decoded - tensor).norm() / tensor.norm()) < 3e-3
    scales = decoded.view(64, -1, 64).abs().amax(dim=2)
    assert torch.equal(scales, scales.half().float())  # a ternary layer takes fp16 scales only


def test_other_tensors_are_refused():
    with pytest.raises(ValueError, match="is not scale × code"):
        coding.encode(torch.randn(4, 64, generator=torch.Generator().manual_seed(3)))
    with pytest.raises(ValueError, match="unknown form of scales 'log'"):
        coding.encode(torch.eye(3), scales="log")


def test_entropy_of_a_fair_code_is_not_beaten():
    tensor = ternary(64, 640, 640)
    bits = 8 * (len(coding.encode(tensor).payload) - 128) / tensor.numel()
    assert math.log2(3) - 0.01 < bits < 1.6
