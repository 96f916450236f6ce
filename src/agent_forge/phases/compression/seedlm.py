"""SeedLM: a block of weights as the seed of a shift register and a few coefficients.

Shafipour et al. 2024, "SeedLM: Compressing LLM Weights into Seeds of Pseudo-Random Generators",
arXiv:2410.10714, sections 3.1–3.3. A block w of C weights is U(s)·t: U(s) is a C×P matrix drawn from a 16-bit
linear feedback shift register started at s, t are P 4-bit coefficients with one shared 4-bit exponent.
Data-free. 4 bits a weight: C=8, P=3 (16 + 4 + 12 bits). 3 bits: C=12, P=4 (16 + 4 + 16 bits).

What we do differently:

1. The shared exponent is ceil(log2(max|t| / 7.5)). The printed floor(log2 max|t|) leaves 11 of the 16 codes
   unused: relative error 0.191 instead of 0.123 on Gaussian weights.
2. Each tensor is divided by its root mean square first, so that the exponent range [-8, 7] always fits.
3. The search is exact and fast. The error before the coefficients are rounded, |w|² − |Q_sᵀ w|² with Q_s an
   orthonormal basis of U(s), bounds the rounded error of seed s from below; for all 65,535 seeds it is one
   matrix product over the C(C+1)/2 products w_i·w_j. Only the best candidates are rounded, and their number
   is widened until the bound (with its fp32 rounding error) proves that no other seed can win.
4. Decoding sums integers and multiplies once by the scale, so the result is the same on every machine.
5. One convention for seeds: the register is updated before its first state is used (text and figure of the
   paper differ); states fill U row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agent_forge.phases.compression.bitstream import Encoded, dtype_name, finish, flat_float, pack_bits, unpack_bits

REGISTER_BITS = 16
TAPS = (0, 1, 3, 12)
LAYOUTS = {4: (8, 3), 3: (12, 4)}
"""Bits a weight → (C weights a block, P coefficients)."""

_NUM_SEEDS = 1 << REGISTER_BITS  # seed 0 never leaves zero; its row only pads the tables
_HALF = 1 << (REGISTER_BITS - 1)
_GROUP = 32  # seeds whose best score is taken first: finds the top k without sorting 65,536 values
_MIN_EXPONENT, _MAX_EXPONENT = -8, 7


@dataclass(frozen=True)
class Found:
    """Best seed of each of N blocks: seeds [N], exponents [N], coefficients [N, P], squared errors [N] (fp64)."""

    seeds: Tensor
    exponents: Tensor
    coefficients: Tensor
    errors: Tensor


def encode(tensor: Tensor, *, bits: int = 4, candidates: int = 32) -> Encoded:
    """Finds the best seed of every block of the tensor.

    Args:
        tensor: any shape, floating; the last block is padded with zeros.
        bits: 4 or 3 bits a weight.
        candidates: seeds rounded per block before the bound is asked (speed only, never the result).

    Raises:
        ValueError: another number of bits, or weights that are not finite.
    """
    block, rank = _layout(bits)
    flat = flat_float(tensor)
    scale = _scale(flat)
    count = math.ceil(flat.numel() / block)
    padded = torch.zeros(count * block)
    padded[: flat.numel()] = flat / scale  # 1. unit scale
    found = search(padded.view(count, block), rank=rank, candidates=candidates)  # 2. seed and coefficients
    words = found.seeds | ((found.exponents - _MIN_EXPONENT) << REGISTER_BITS)
    for index in range(rank):  # 3. seed, exponent, coefficients in two's complement
        words |= (found.coefficients[:, index] & 15) << (REGISTER_BITS + 4 + 4 * index)
    payload = pack_bits(words.numpy(), _word_bits(rank))
    header = {"bits": bits, "scale": scale}
    return Encoded("seedlm", tuple(tensor.shape), dtype_name(tensor), header, payload)


def decode(encoded: Encoded) -> Tensor:
    """Runs the registers: integer sums, one multiplication by the scale."""
    block, rank = _layout(int(encoded.header["bits"]))
    count = math.ceil(encoded.num_weights / block)
    words = unpack_bits(encoded.payload, _word_bits(rank), count)
    states = _states(block, rank)
    out = np.empty((count, block), dtype=np.float32)
    scale = np.float32(encoded.header["scale"])
    for start in range(0, count, 1 << 16):
        part = words[start : start + (1 << 16)]
        basis = states[part & (_NUM_SEEDS - 1)].astype(np.int64) - _HALF  # [n, C·P]
        exponents = ((part >> REGISTER_BITS) & 15) + _MIN_EXPONENT
        nibbles = np.stack([(part >> (REGISTER_BITS + 4 + 4 * i)) & 15 for i in range(rank)], axis=1)
        coefficients = (nibbles ^ 8) - 8
        sums = (basis.reshape(-1, block, rank) * coefficients[:, None, :]).sum(axis=2)  # below 2^21: exact
        unit = np.ldexp(1.0 / (_HALF - 1), exponents.astype(np.int32)).astype(np.float32) * scale
        out[start : start + (1 << 16)] = sums.astype(np.float32) * unit[:, None]
    return finish(torch.from_numpy(out).reshape(-1)[: encoded.num_weights], encoded)


def search(blocks: Tensor, *, rank: int, candidates: int = 32, chunk: int = 256) -> Found:
    """The seed of smallest rounded error for every block, proven by the lower bound.

    Args:
        blocks: [N, C] fp32, about unit scale.
        rank: P, coefficients a block.
        candidates: first number of seeds that are rounded.
        chunk: blocks per matrix product (C=8: 256 × 65,536 scores are 64 MiB).
    """
    parts = [_search_chunk(part, rank, candidates) for part in torch.split(blocks.float(), chunk)]
    if not parts:
        empty = torch.empty(0, dtype=torch.int64)
        return Found(empty, empty, torch.empty(0, rank, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    return Found(*(torch.cat(column) for column in zip(*parts, strict=True)))


def search_exhaustively(blocks: Tensor, *, rank: int) -> Found:
    """The same minimum by rounding all 65,535 seeds: the yardstick of tests and of the benchmark."""
    seeds = torch.arange(_NUM_SEEDS)[None]
    parts = [_round_candidates(block[None], seeds, rank) for block in blocks.float()]
    return Found(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _search_chunk(blocks: Tensor, rank: int, candidates: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Exact search over one chunk [n, C]; widens the candidates of the blocks that are not proven."""
    block = blocks.shape[1]
    table = _projections(block, rank)
    rows, columns = torch.triu_indices(block, block)
    scores = (blocks[:, rows] * blocks[:, columns]) @ table  # [n, 65536] = |Q_sᵀ w|²
    energy = blocks.double().square().sum(dim=1)
    # fp32 rounding of the product and of its table: the sum of |terms| is at most √P·|w|².
    slack = (rows.numel() + 3) * 2.0**-24 * math.sqrt(rank) * energy
    seeds, worst_kept = _best_seeds(scores, candidates)
    best = _round_candidates(blocks, seeds, rank)
    open_ = (energy - worst_kept.double() - slack < best[3]).nonzero()[:, 0]
    width = candidates
    while open_.numel() and width < _NUM_SEEDS:
        width = min(_NUM_SEEDS, width * 8)
        seeds, worst_kept = _best_seeds(scores[open_], width)
        wider = _round_candidates(blocks[open_], seeds, rank)
        for kept, found in zip(best, wider, strict=True):
            kept[open_] = found
        proven = energy[open_] - worst_kept.double() - slack[open_] >= wider[3]
        open_ = open_[~proven]
    return best


def _best_seeds(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` seeds of highest score in ascending order [n, count], and the lowest kept score [n]."""
    if count >= scores.shape[1] // _GROUP:
        kept = scores.topk(min(count, scores.shape[1]), dim=1)
        return kept.indices.sort(dim=1).values, kept.values[:, -1]
    grouped = scores.view(scores.shape[0], -1, _GROUP)
    groups = grouped.amax(dim=2).topk(count, dim=1).indices  # the top k values lie in the top k groups
    inside = grouped.gather(1, groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
    kept = inside.topk(count, dim=1)
    seeds = groups.gather(1, kept.indices // _GROUP) * _GROUP + kept.indices % _GROUP
    return seeds.sort(dim=1).values, kept.values[:, -1]


def _round_candidates(blocks: Tensor, seeds: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Least squares, shared exponent, 4-bit rounding for [n, k] seeds; the best of each row.

    The lowest seed wins a tie, so that the result does not depend on how many candidates were asked.
    """
    block = blocks.shape[1]
    weights = blocks.double()
    inverse = _pseudo_inverses(block, rank)[seeds]  # [n, k, P, C]
    exact = (inverse @ weights[:, None, :, None])[..., 0]  # [n, k, P]
    peak = exact.abs().amax(dim=2).clamp_min(1e-300)
    exponents = torch.ceil(torch.log2(peak / 7.5)).clamp(_MIN_EXPONENT, _MAX_EXPONENT)
    steps = torch.exp2(exponents)
    coefficients = torch.round(exact / steps[..., None]).clamp(-8, 7)
    basis = _bases(block, rank)[seeds]  # [n, k, C, P]
    fitted = (basis @ (coefficients * steps[..., None])[..., None])[..., 0]
    errors = (weights[:, None] - fitted).square().sum(dim=2)
    errors = torch.where(seeds == 0, torch.inf, errors)
    smallest, index = errors.min(dim=1)
    ties = errors == smallest[:, None]
    index = ties.to(torch.uint8).argmax(dim=1)  # first of equals
    row = torch.arange(blocks.shape[0])
    chosen = seeds.expand(blocks.shape[0], -1)[row, index]
    return chosen, exponents[row, index].long(), coefficients[row, index].long(), smallest


@lru_cache(maxsize=4)
def _states(block: int, rank: int) -> NDArray[np.uint16]:
    """[65536, C·P]: the C·P register states after each seed; row 0 is never used."""
    state = np.arange(_NUM_SEEDS, dtype=np.uint32)
    out = np.empty((_NUM_SEEDS, block * rank), dtype=np.uint16)
    for step in range(block * rank):
        feedback = np.zeros_like(state)
        for tap in TAPS:
            feedback ^= (state >> np.uint32(tap)) & np.uint32(1)
        state = (state >> np.uint32(1)) | (feedback << np.uint32(REGISTER_BITS - 1))
        out[:, step] = state
    return out


@lru_cache(maxsize=4)
def _bases(block: int, rank: int) -> Tensor:
    """U(s) [65536, C, P] in fp64."""
    values = _states(block, rank).astype(np.float64).reshape(-1, block, rank)
    return torch.from_numpy((values - _HALF) / (_HALF - 1))


@lru_cache(maxsize=4)
def _factors(block: int, rank: int) -> tuple[Tensor, Tensor]:
    """Orthonormal bases [65536, C, P] and pseudo-inverses [65536, P, C], by SVD in fp64.

    fp64 and SVD: normal equations lose about 0.8% of the seeds to ill conditioning.
    """
    left, singular, right = torch.linalg.svd(_bases(block, rank), full_matrices=False)
    alive = singular > singular[:, :1] * 1e-10
    inverse = torch.where(alive, 1 / singular.clamp_min(1e-300), 0.0)
    pseudo = (right.mT * inverse[:, None, :]) @ left.mT
    return left * alive[:, None, :], pseudo


def _pseudo_inverses(block: int, rank: int) -> Tensor:
    return _factors(block, rank)[1]


@lru_cache(maxsize=4)
def _projections(block: int, rank: int) -> Tensor:
    """Q·Qᵀ of every seed as [C(C+1)/2, 65536] fp32, off-diagonal entries doubled; column 0 is zero."""
    basis = _factors(block, rank)[0]
    rows, columns = torch.triu_indices(block, block)
    products = (basis[:, rows] * basis[:, columns]).sum(dim=2)
    products = products * torch.where(rows == columns, 1.0, 2.0)
    products[0] = 0
    return products.float().T.contiguous()


def _layout(bits: int) -> tuple[int, int]:
    if bits not in LAYOUTS:
        raise ValueError(f"SeedLM has layouts for {sorted(LAYOUTS)} bits a weight, got {bits}")
    return LAYOUTS[bits]


def _word_bits(rank: int) -> int:
    return REGISTER_BITS + 4 + 4 * rank


def _scale(flat: Tensor) -> float:
    """Root mean square as an fp32 number; 1 for an empty or zero tensor."""
    scale = float(flat.double().square().mean().sqrt().float()) if flat.numel() else 0.0
    return scale if scale > 0 else 1.0
