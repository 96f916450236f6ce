"""SeedLM's exact search against an exhaustive vectorised one, interleaved in one process on the same blocks.

The rival rounds all 65,535 seeds of every block with two matrix products in fp32 and keeps the smallest error: what
one writes first in torch. Both find the same minimum (checked). Prints the ratio with its spread over rounds and the
time that 25M weights would take; writes a JSON row.

    python benchmarks/seedlm.py [--rounds 5] [--blocks 256] [--bits 4] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from agent_forge.phases.compression import seedlm

REFERENCE_WEIGHTS = 25_000_000


def exhaustive(blocks: torch.Tensor, inverse: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Smallest rounded squared error of each block [n, C] over all seeds; tables [65535, P, C] and [65535, C, P]."""
    seeds, rank, block = inverse.shape
    best = torch.empty(blocks.shape[0])
    for index, weights in enumerate(blocks):
        exact = (inverse.reshape(-1, block) @ weights).view(seeds, rank)
        steps = torch.exp2(torch.ceil(torch.log2(exact.abs().amax(dim=1) / 7.5)).clamp(-8, 7))[:, None]
        rounded = torch.round(exact / steps).clamp(-8, 7) * steps
        fitted = (basis * rounded[:, None, :]).sum(dim=2)
        best[index] = (fitted - weights).square().sum(dim=1).min()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--blocks", type=int, default=256, help="blocks of ours in a round; the rival gets 1/16 of them"
    )
    parser.add_argument("--bits", type=int, default=4, choices=sorted(seedlm.LAYOUTS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    block, rank = seedlm.LAYOUTS[options.bits]
    generator = torch.Generator().manual_seed(0)
    inverse = seedlm._pseudo_inverses(block, rank)[1:].float().contiguous()
    basis = seedlm._bases(block, rank)[1:].float().contiguous()
    seedlm._projections(block, rank)
    warm = torch.randn(2, block, generator=generator)
    seedlm.search(warm, rank=rank), exhaustive(warm, inverse, basis)
    ours, rival, processor = [], [], []
    for _ in range(options.rounds):
        blocks = torch.randn(options.blocks, block, generator=generator)
        few = blocks[: max(2, options.blocks // 16)]
        start, used = time.perf_counter(), time.process_time()
        found = seedlm.search(blocks, rank=rank)
        ours.append((time.perf_counter() - start) / len(blocks))
        processor.append((time.process_time() - used) / len(blocks))
        start = time.perf_counter()
        errors = exhaustive(few, inverse, basis)
        rival.append((time.perf_counter() - start) / len(few))
        gap = float((found.errors[: len(few)] - errors).abs().max())
        if gap > 1e-4:
            raise SystemExit(f"the searches disagree by {gap}")
    ratios = sorted(r / o for r, o in zip(rival, ours, strict=True))
    per_block = statistics.median(ours)
    row = {
        "benchmark": "seedlm",
        "bits": options.bits,
        "threads": torch.get_num_threads(),
        "ours_microseconds_per_block": per_block * 1e6,
        "exhaustive_microseconds_per_block": statistics.median(rival) * 1e6,
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
        "minutes_for_25m_weights": per_block * REFERENCE_WEIGHTS / block / 60,
        # processor time does not count waiting for a shared core
        "processor_minutes_for_25m_weights": statistics.median(processor) * REFERENCE_WEIGHTS / block / 60,
    }
    print(json.dumps(row, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
