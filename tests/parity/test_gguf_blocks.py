"""Against the `gguf` package, the reference of the format: equal bytes both ways."""

import gguf
import numpy as np
import pytest
import torch

from agent_forge.model.ternary import Layout, dequantize, quantize
from agent_forge.phases.bitnet.pack_gguf import BLOCK_BYTES, pack_gguf, unpack_gguf

KINDS = {"TQ1_0": gguf.GGMLQuantizationType.TQ1_0, "TQ2_0": gguf.GGMLQuantizationType.TQ2_0}


def _matrix(seed, group_size, rows=12, columns=768):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.02
    weight[3] = 0
    weight[4, :256] = 0
    layout = Layout(group_size)
    codes, scale = quantize(weight, layout)
    return codes, scale, dequantize(codes, scale, layout).numpy()


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("group_size", [0, -1])
@pytest.mark.parametrize("seed", range(4))
def test_bit_exact(kind, group_size, seed):
    codes, scale, values = _matrix(seed, group_size)
    packed = pack_gguf(codes, scale, kind)
    assert packed.shape == (12, 3 * BLOCK_BYTES[kind])
    assert np.array_equal(packed, gguf.quants.quantize(values, KINDS[kind]))
    assert np.array_equal(gguf.quants.dequantize(packed, KINDS[kind]), values)
    back, scales = unpack_gguf(packed, kind)
    assert np.array_equal(back, codes.numpy())
    assert np.array_equal(back * np.repeat(scales, 256, axis=1), values)


def test_refuses_what_a_block_cannot_hold():
    codes, scale, _ = _matrix(0, -1)
    with pytest.raises(ValueError, match="one scale per 256"):
        pack_gguf(codes, scale.expand(-1, 6), "TQ2_0")
    with pytest.raises(ValueError, match="256"):
        pack_gguf(codes[:, :200], scale, "TQ2_0")
    with pytest.raises(ValueError, match="kind"):
        pack_gguf(codes, scale, "Q4_0")
    with pytest.raises(ValueError, match="blocks"):
        unpack_gguf(np.zeros((2, 65), dtype=np.uint8), "TQ2_0")
