import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.model.pack_base3 import pack_base3, pack_bits, unpack_base3, unpack_bits


def _codes(seed, shape, lowest, highest):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lowest, highest + 1, shape, generator=generator, dtype=torch.int8)


def test_five_codes_by_hand():
    # digits 2 0 1 1 2 = 2*81 + 0*27 + 1*9 + 1*3 + 2 = 176; then 0 and four fillers = 121
    packed = pack_base3(torch.tensor([1, -1, 0, 0, 1, 0], dtype=torch.int8))
    assert packed.tolist() == [176, 121]
    assert pack_bits(torch.tensor([-2, 1, 0, -1, 1], dtype=torch.int8), 2).tolist() == [0b01_10_11_00, 0b10_10_10_11]
    assert pack_bits(torch.tensor([-8, 7], dtype=torch.int8), 4).tolist() == [0xF0]


@given(st.integers(0, 1000), st.integers(0, 9), st.integers(0, 13))
def test_base3_round_trip(seed, rows, columns):
    codes = _codes(seed, (rows, columns), -1, 1)
    packed = pack_base3(codes)
    assert packed.numel() == -(-codes.numel() // 5)
    assert torch.equal(unpack_base3(packed, (rows, columns)), codes)


@given(st.integers(0, 1000), st.integers(0, 9), st.integers(0, 13), st.sampled_from([2, 4]))
def test_bits_round_trip(seed, rows, columns, bits):
    codes = _codes(seed, (rows, columns), -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    assert torch.equal(unpack_bits(pack_bits(codes, bits), (rows, columns), bits), codes)


def test_refuses_other_codes_and_lengths():
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        pack_base3(torch.tensor([2], dtype=torch.int8))
    with pytest.raises(ValueError, match="int8"):
        pack_base3(torch.tensor([1.0]))
    with pytest.raises(ValueError, match="base-3"):
        unpack_base3(torch.zeros(3, dtype=torch.uint8), (4, 4))
    with pytest.raises(ValueError, match="base-3"):
        unpack_base3(torch.tensor([243], dtype=torch.uint8), (5,))
    with pytest.raises(ValueError, match="2 or 4"):
        pack_bits(torch.tensor([1], dtype=torch.int8), 3)
    with pytest.raises(ValueError, match="2 bits"):
        unpack_bits(torch.zeros(3, dtype=torch.uint8), (4, 4), 2)
