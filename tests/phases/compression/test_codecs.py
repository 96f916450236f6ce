"""What every codec must keep: exact round trips on every kind of tensor, and its place against the bound."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from agent_forge.phases.compression import codecs
from agent_forge.phases.compression.bitstream import Encoded

OPTIONS = ("plain/native", "plain/fp16", "plain/int8", "plain/int4", "uniform/0.05", "uniform/1.1", "seedlm/4",
           "seedlm/3", "hyper/6.5", "hyper/4.5")  # fmt: skip
TENSORS = {
    "zeros": torch.zeros(7, 5),
    "constant": torch.full((4, 9), 0.25),
    "one weight": torch.tensor([[-3.0]]),
    "scalar": torch.tensor(0.5),
    "empty": torch.empty(0, 4),
    "odd": torch.randn(13, 11, generator=torch.Generator().manual_seed(0)),
    "vector": torch.randn(17, generator=torch.Generator().manual_seed(1)) * 1e-3,
    "three dimensions": torch.randn(3, 5, 7, generator=torch.Generator().manual_seed(2)),
    "bf16": torch.randn(8, 24, generator=torch.Generator().manual_seed(3)).bfloat16(),
    "fp16": torch.randn(8, 24, generator=torch.Generator().manual_seed(4)).half(),
    "an outlier": torch.cat([torch.randn(63, generator=torch.Generator().manual_seed(5)), torch.tensor([60.0])]),
}


def relative_error(option: str, tensor: torch.Tensor) -> float:
    return float((codecs.decode(codecs.encode(tensor, option)).float() - tensor.float()).norm() / tensor.float().norm())


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", TENSORS)
def test_stored_bytes_decode_to_one_reconstruction(option, kind):
    tensor = TENSORS[kind]
    encoded = codecs.encode(tensor, option)
    again = codecs.encode(tensor.clone(), option)
    assert (encoded.payload, encoded.header) == (again.payload, again.header)
    decoded = codecs.decode(encoded)
    assert decoded.shape == tensor.shape
    assert decoded.dtype == tensor.dtype
    assert torch.isfinite(decoded).all()
    rebuilt = Encoded(encoded.codec, encoded.shape, encoded.dtype, dict(encoded.header), bytes(encoded.payload))
    assert torch.equal(codecs.decode(rebuilt), decoded)
    if kind == "zeros":
        # a lattice of 2-D points has none at the origin; everything else keeps zero exactly
        assert option.startswith("hyper") or not decoded.any()


@pytest.mark.parametrize("kind", TENSORS)
def test_native_is_lossless(kind):
    assert torch.equal(codecs.decode(codecs.encode(TENSORS[kind], "plain/native")), TENSORS[kind])


@pytest.mark.parametrize("option", OPTIONS)
def test_scaling_a_tensor_scales_its_reconstruction(option):
    """No codec may depend on the magnitude of the weights (SeedLM with its exponent floor once did)."""
    tensor = torch.randn(16, 48, generator=torch.Generator().manual_seed(6))
    errors = [relative_error(option, tensor * scale) for scale in (1.0, 2.0**-9)]
    assert errors[1] == pytest.approx(errors[0], rel=0.06, abs=1e-4)


@pytest.mark.parametrize("option", ["plain/fp16", "plain/int8", "plain/int4", "seedlm/4", "uniform/0.4", "hyper/6.5"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_broken_weights_are_refused(option, bad):
    with pytest.raises(ValueError, match="finite"):
        codecs.encode(torch.tensor([[1.0, bad]]), option)


def test_gaussian_distortion_in_decibels():
    """Signal to noise of each codec on Gaussian weights against its construction and the bound 6.02 dB a bit."""
    tensor = torch.randn(96, 192, generator=torch.Generator().manual_seed(7))
    expected = {  # bits, decibels of the construction
        "seedlm/4": (4.0, 18.2),  # 0.1230
        "seedlm/3": (3.0, 12.93),  # 0.2257
        "hyper/6.5": (6.5, 33.9),
        "plain/int4": (4.25, 19.4),
    }
    for option, (bits, decibels) in expected.items():
        encoded = codecs.encode(tensor, option)
        measured = -20 * math.log10(relative_error(option, tensor))
        assert encoded.bits_per_weight <= bits + 0.01, option
        assert measured == pytest.approx(decibels, abs=0.3), option
        assert measured < 6.0206 * encoded.bits_per_weight, (
            f"{option} beats the Shannon bound: something is not counted"
        )


@pytest.mark.parametrize("step", codecs.LADDER["uniform"])
def test_entropy_coded_uniform_stays_within_a_quarter_bit_of_the_bound(step):
    tensor = torch.randn(512, 192, generator=torch.Generator().manual_seed(8))
    ideal = -math.log2(relative_error(f"uniform/{step}", tensor))
    assert 0 < codecs.encode(tensor, f"uniform/{step}").bits_per_weight - ideal < 0.29


def test_rates_of_a_codec_get_worse_in_order():
    tensor = torch.randn(64, 64, generator=torch.Generator().manual_seed(9))
    for codec in ("plain", "uniform", "seedlm", "hyper"):
        errors = [relative_error(f"{codec}/{rate}", tensor) for rate in codecs.LADDER[codec]]
        assert errors == sorted(errors), codec


def test_the_weaker_rate_is_the_next_finer_one():
    assert codecs.weaker("uniform/0.1") == "uniform/0.05"
    assert codecs.weaker("seedlm/3") == "seedlm/4"
    assert codecs.weaker("seedlm/4") is None


@pytest.mark.parametrize("option", ["seedlm/5", "zip/9", "uniform", "vptq/2"])
def test_unknown_options_are_refused(option):
    with pytest.raises(ValueError, match="unknown option"):
        codecs.encode(torch.ones(2, 2), option)


def test_unknown_codec_in_a_file_is_refused():
    with pytest.raises(ValueError, match="unknown codec 'later'"):
        codecs.decode(Encoded("later", (1,), "float32", {}, b""))


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["odd", "bf16", "fp16"])
def test_exact_rows_come_back_bit_for_bit_and_the_others_as_without_them(option, kind):
    tensor = TENSORS[kind]
    encoded = codecs.encode(tensor, option, exact_rows=(0, 5))
    decoded, plain = codecs.decode(encoded), codecs.decode(codecs.encode(tensor, option))
    assert torch.equal(decoded[[0, 5]], tensor[[0, 5]])
    others = [row for row in range(tensor.shape[0]) if row not in (0, 5)]
    assert torch.equal(decoded[others], plain[others])
    extra = 0 if option in codecs.LOSSLESS else 2 * tensor.shape[1] * tensor.element_size()
    assert len(encoded.payload) == len(codecs.encode(tensor, option).payload) + extra


def test_exact_rows_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"no rows \[13\]"):
        codecs.encode(TENSORS["odd"], "uniform/1.1", exact_rows=(13,))
    encoded = codecs.encode(TENSORS["odd"], "uniform/1.1", exact_rows=(1,))
    with pytest.raises(ValueError, match="no rows"):
        codecs.decode(replace(encoded, header={**encoded.header, "exact_rows": [99]}))
    with pytest.raises(ValueError, match="cannot hold"):
        codecs.decode(replace(encoded, payload=encoded.payload[:20]))
