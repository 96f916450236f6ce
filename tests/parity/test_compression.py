"""Outside references for phase 8: the gguf package, numpy, textbook quantizers, the arithmetic of GPTQ."""

from __future__ import annotations

import math

import gguf
import numpy as np
import pytest
import torch

from agent_forge.phases.compression import gptq, hessian, plain, uniform_coding, vptq
from agent_forge.phases.compression.ternary_coding import find_levels


def layer(out: int = 48, width: int = 64, tokens: int = 600, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and the Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator) / width**0.5 + torch.eye(width)
    inputs = torch.randn(tokens, width, generator=generator) @ mix
    return torch.randn(out, width, generator=generator) * 0.05, inputs.T @ inputs / tokens


@pytest.mark.parametrize(
    ("kind", "levels", "group"), [(gguf.GGMLQuantizationType.TQ1_0, 3, 256), (gguf.GGMLQuantizationType.Q8_0, 255, 32)]
)
def test_rounding_to_llama_blocks_is_that_of_the_gguf_package(kind, levels, group):
    """The ladder's rung in llama.cpp's layout: our rounding and sizes are those of its own converter."""
    weights = torch.randn(8, 512, generator=torch.Generator().manual_seed(1))
    theirs = gguf.quants.quantize(weights.numpy(), kind)
    codes, scales = plain.round_to_nearest(weights, levels=levels, group=group)
    ours = plain.from_groups(codes.float() * scales.float()[..., None], (8, 512))
    reference = torch.from_numpy(gguf.quants.dequantize(theirs, kind).copy())
    # the package divides by the scale before it is rounded to fp16: a code on the border may differ by one step
    assert float((ours != reference).float().mean()) < 0.05
    assert float((ours - reference).abs().max()) <= float(scales.float().max()) * 1.001
    assert float((ours - weights).norm()) <= float((reference - weights).norm()) * 1.0001
    assert theirs.nbytes == {3: 54, 255: 34}[levels] * scales.numel()


def test_ternary_survives_llama_blocks_where_the_scale_is_constant():
    codes = torch.randint(-1, 2, (4, 512), generator=torch.Generator().manual_seed(2)).float()
    codes[:, ::256] = 1
    weights = codes * 0.0625
    theirs = gguf.quants.quantize(weights.numpy(), gguf.GGMLQuantizationType.TQ1_0)
    back = torch.from_numpy(gguf.quants.dequantize(theirs, gguf.GGMLQuantizationType.TQ1_0).copy())
    assert torch.equal(back, weights)
    assert find_levels(weights) is not None


def test_inverse_factor_against_numpy():
    _, curvature = layer()
    order, upper = hessian.inverse_factor(curvature, damping=0.01)
    dense = curvature.double().numpy()
    dense = dense + 0.01 * np.mean(np.diag(dense)) * np.eye(len(dense))
    assert (np.diff(np.diag(dense)[order.numpy()]) <= 0).all()
    permuted = dense[np.ix_(order.numpy(), order.numpy())]
    rebuilt = upper.double().T @ upper.double()
    assert np.allclose(rebuilt.numpy(), np.linalg.inv(permuted), rtol=1e-4, atol=1e-5)


def test_error_feedback_of_the_last_column_is_the_exact_solution():
    """Two columns, the first rounded: the second must move to where the output error is least (Brain Surgeon)."""
    curvature = torch.tensor([[2.0, 1.0], [1.0, 1.0]])
    weight = torch.tensor([[0.4, 0.3]])
    seen = {}

    def rounder(column, index):
        seen[index] = column.clone()
        return torch.round(column) if index == 0 else column

    out = hessian.push_errors(weight, curvature, rounder, damping=1e-6)
    # minimise 2a² + 2ab + b² over b with a = 0 − 0.4: b = −a = 0.4
    assert seen[1].item() == pytest.approx(0.3 + 0.4, abs=1e-4)
    assert out[0].tolist() == pytest.approx([0.0, 0.7], abs=1e-4)


@pytest.mark.parametrize("block", [1, 7, 64])
def test_blocked_updates_equal_column_by_column(block):
    weight, curvature = layer()
    reference = hessian.push_errors(weight, curvature, lambda column, _: torch.round(column * 20) / 20, block=128)
    blocked = hessian.push_errors(weight, curvature, lambda column, _: torch.round(column * 20) / 20, block=block)
    assert float((reference != blocked).float().mean()) < 0.01  # fp32 sums in another order may move a tie


def test_identity_hessian_means_plain_rounding():
    weight, _ = layer()
    out = hessian.push_errors(weight, torch.eye(64), lambda column, _: torch.round(column * 20) / 20)
    assert torch.equal(out, torch.round(weight * 20) / 20)


def test_gptq_beats_rounding_on_correlated_inputs():
    weight, curvature = layer()
    feedback = plain.decode(gptq.encode(weight, hessian=curvature, bits=3))
    rounded = plain.decode(gptq.encode(weight, hessian=torch.eye(64), bits=3))
    assert hessian.weighted_error(feedback - weight, curvature) < 0.8 * hessian.weighted_error(
        rounded - weight, curvature
    )


def test_uniform_coding_with_the_hessian_beats_it_without_at_equal_bits():
    weight, curvature = layer(out=128)
    plainly = uniform_coding.encode(weight, step_fraction=0.8)
    pushed = uniform_coding.encode(weight, step_fraction=0.8, hessian=curvature)
    errors = [hessian.weighted_error(uniform_coding.decode(e) - weight, curvature) for e in (plainly, pushed)]
    assert errors[1] < 0.8 * errors[0]
    assert pushed.bits_per_weight < plainly.bits_per_weight + 0.1


def test_vptq_beats_gptq_at_no_more_total_bits():
    """Codebook and scales counted, on matrices that share one codebook; GPTQ with its best scales and after zstd."""
    pairs = [layer(out=512, width=128, seed=seed) for seed in range(8)]
    weights, curvatures = [w for w, _ in pairs], [h for _, h in pairs]
    for bits, vector, centroids in ((2, 4, 192), (3, 3, 384)):
        encoded, shared = vptq.encode(
            weights, curvatures, name="book", vector=vector, centroids=centroids,
            generator=torch.Generator().manual_seed(0), iterations=6,
        )  # fmt: skip
        count = sum(weight.numel() for weight in weights)
        total = 8 * (sum(len(one.payload) for one in encoded) + sum(map(len, shared.values()))) / count
        rivals = [gptq.encode(w, hessian=h, bits=bits) for w, h in pairs]
        rival_bits = 8 * sum(len(rival.payload) for rival in rivals) / count
        wins = 0
        for one, rival, (weight, curvature) in zip(encoded, rivals, pairs, strict=True):
            mine = hessian.weighted_error(vptq.decode(one, shared) - weight, curvature)
            wins += mine <= hessian.weighted_error(plain.decode(rival) - weight, curvature)
        assert total <= rival_bits + 0.01, (total, rival_bits)
        assert wins >= 0.9 * len(pairs), (bits, wins, total, rival_bits)


def test_kmeans_in_one_dimension_is_lloyd_max():
    """Max 1960, table I: 4 levels at ±0.4528, ±1.510; distortion 0.1175."""
    samples = torch.randn(60_000, 1, generator=torch.Generator().manual_seed(3))
    table = vptq._kmeans(samples, torch.ones(len(samples)), 4, 60, torch.Generator().manual_seed(4))
    assert table[:, 0].sort().values.tolist() == pytest.approx([-1.510, -0.4528, 0.4528, 1.510], abs=0.03)
    distortion = float((samples - table[vptq._nearest(samples, table)]).square().mean())
    assert distortion == pytest.approx(0.1175, abs=0.003)


def test_nothing_beats_the_gaussian_bound():
    """A sanity check of the accounting: −log2 of the relative error may not exceed the bits that are stored."""
    weights = torch.randn(256, 128, generator=torch.Generator().manual_seed(5))
    encoded, shared = vptq.encode(
        [weights], [torch.eye(128)], name="b", vector=4, centroids=64, generator=torch.Generator(), iterations=5
    )
    error = float((vptq.decode(encoded[0], shared) - weights).norm() / weights.norm())
    bits = 8 * (len(encoded[0].payload) + sum(map(len, shared.values()))) / weights.numel()
    assert -math.log2(error) < bits
