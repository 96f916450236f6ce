"""Hyper-Compression: a pair of weights as one integer, the time at which an ergodic trajectory passes near it.

Fan et al. 2024, "Hyper-Compression: Model Compression via Hyperfunction", arXiv:2409.00592, sections 3–4. On a
square of side l the trajectory x_θ = (θ·a₁, θ·a₂) mod l with a₂/a₁ irrational comes as near to every point as one
likes. U of its points are numbered; a pair of weights is replaced by the number of the nearest one. Pairs outside
the square are drawn into it radially by one of M scale classes; the class is folded into the integer. Decoding is
arithmetic: no table, no codebook.

What we do differently:

1. Side and class radii scale with the tensor's deviation. A fixed l = 0.1 fits no other tensor.
2. The trajectory is the rational winding (i/U, i·m/U mod 1), m near √U and without a common divisor with U: the
   U points are distinct, and decoding is exact integer arithmetic.
3. Vectorised: the nearest point is one matrix product per chunk, where the published code loops over strings.
4. Bits are counted as stored: ceil(log2(U·M)) for two weights. That is about 6 bits a weight at the published
   settings (the "2.60×" of LLaMA2-7B is 6.1 bits), so it is always shown beside round-to-nearest at equal bits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float, pack_bits, unpack_bits

NUM_CLASSES = 3
_SIDE = 2.5  # of the inner square in deviations: measured best of 2–4 for Gaussian weights and 3 classes
_CHUNK = 4096


def encode(tensor: Tensor, *, bits: float = 6.5, classes: int = NUM_CLASSES) -> Encoded:
    """Replaces pairs of weights by points of the trajectory.

    Args:
        tensor: any shape, floating; an odd last weight is paired with zero.
        bits: bits a weight, a multiple of one half in 2–8.
        classes: M, scale classes (1–4).

    Raises:
        ValueError: bits or classes outside their range, weights that are not finite.
    """
    width = round(2 * bits)
    if abs(2 * bits - width) > 1e-9 or not 4 <= width <= 16 or not 1 <= classes <= 4:
        raise ValueError(f"bits must be a half-integer in 2–8 and classes in 1–4, got {bits} and {classes}")
    flat = flat_float(tensor)
    count = (flat.numel() + 1) // 2
    padded = torch.zeros(2 * count)
    padded[: flat.numel()] = flat
    pairs = padded.view(-1, 2)
    deviation = float(np.float32(flat.double().square().mean().sqrt())) if flat.numel() else 0.0
    scale = deviation * _SIDE or 1.0
    # 1. the class: how far the pair lies outside the square around zero (by its larger coordinate)
    reach = pairs.abs().amax(dim=1) / (scale / 2)
    largest = max(1.0, float(reach.max())) if count else 1.0
    exponents = torch.linspace(0, 1, classes) if classes > 1 else torch.ones(1)
    factors = largest**exponents
    chosen = torch.bucketize(reach, factors).clamp(max=classes - 1)
    # 2. the nearest of the U points in the unit square
    points = (1 << width) // classes
    unit = pairs / (factors[chosen] * scale)[:, None] + 0.5
    index = _nearest(unit, points)
    # 3. class and index in one integer
    payload = pack_bits((chosen * points + index).numpy(), width)
    header = {"width": width, "classes": classes, "scale": scale, "factors": factors.tolist()}
    return Encoded("hyper", tuple(tensor.shape), dtype_name(tensor), header, payload)


def decode(encoded: Encoded) -> Tensor:
    """Index → point of the trajectory → square of its class."""
    width, classes = int(encoded.header["width"]), int(encoded.header["classes"])
    count, points = (encoded.num_weights + 1) // 2, (1 << width) // classes
    words = unpack_bits(encoded.payload, width, count)
    chosen, index = np.minimum(words // points, classes - 1), words % points
    coordinates = np.stack([index, index * _slope(points) % points], axis=1).astype(np.float32)
    centred = (coordinates + np.float32(0.5)) / np.float32(points) - np.float32(0.5)
    side = np.array(encoded.header["factors"], dtype=np.float32) * np.float32(encoded.header["scale"])
    values = centred * side[chosen][:, None]
    return finish(torch.from_numpy(values).reshape(-1)[: encoded.num_weights], encoded)


def _slope(points: int) -> int:
    """The smallest slope from √U on that shares no divisor with U: the winding meets U distinct points."""
    slope = math.ceil(math.sqrt(points))
    while math.gcd(slope, points) != 1:
        slope += 1
    return slope


def _nearest(unit: Tensor, points: int) -> Tensor:
    """Number of the trajectory point nearest to each pair [N, 2] in the unit square."""
    index = torch.arange(points)
    trajectory = (torch.stack([index, index * _slope(points) % points], dim=1).double() + 0.5) / points
    half_energy = trajectory.square().sum(dim=1) / 2
    parts = [(half_energy - part.double() @ trajectory.T).argmin(dim=1) for part in torch.split(unit, _CHUNK)]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
