"""Training attention on a CPU: ours against PyTorch's fused kernel, forward and backward, interleaved in one process.

    python benchmarks/attention.py --threads 2

Rows of documents as the trainer has them: causal, and with a mask for packed documents. Seconds of the processor are
counted, so that a busy machine takes nothing from either side; the error is against float64.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from agent_forge.model.blocked_attention import blocked_attention

SHAPES = [(8, 3, 512, 64), (16, 4, 256, 64), (8, 4, 256, 32), (4, 8, 1024, 64)]
"""Rows, heads, tokens, channels of a head."""


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The peer."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)


def document_mask(rows: int, tokens: int, dtype: torch.dtype) -> Tensor:
    """Additive mask of two documents in each row."""
    index = torch.arange(tokens)
    documents = (index >= tokens * 2 // 3).long()
    visible = (index[:, None] >= index) & (documents[:, None] == documents)
    return torch.zeros(rows, 1, tokens, tokens, dtype=dtype).masked_fill(~visible, float("-inf"))


def race(shape: tuple[int, int, int, int], dtype: torch.dtype, masked: bool, repeats: int) -> dict[str, object]:
    """One line of the table."""
    rows, heads, tokens, channels = shape
    exact = [torch.randn(rows, tokens, heads, channels, dtype=torch.float64).transpose(1, 2) for _ in range(4)]
    *inputs, above = [x.to(dtype) for x in exact]
    for x in inputs:
        x.requires_grad_()
    mask = document_mask(rows, tokens, dtype) if masked else None
    seconds: dict[str, list[float]] = {"ours": [], "fused": []}
    for _ in range(repeats + 1):
        for name, attention in (("ours", blocked_attention), ("fused", fused)):
            start = time.process_time()
            torch.autograd.grad(attention(*inputs, mask), inputs, above)
            seconds[name].append(time.process_time() - start)
    ratios = [ours / peer for ours, peer in zip(seconds["ours"][1:], seconds["fused"][1:], strict=True)]
    inputs = [x.detach() for x in inputs]
    truth = fused(*exact[:3], None if mask is None else mask.double())
    error = {
        name: float((attention(*inputs, mask).double() - truth).norm() / truth.norm())
        for name, attention in (("ours", blocked_attention), ("fused", fused))
    }
    return {
        "shape": shape, "dtype": str(dtype).removeprefix("torch."), "documents": masked,
        "ms": {name: 1e3 * statistics.median(values[1:]) for name, values in seconds.items()},
        "ratio": statistics.median(ratios), "spread": [min(ratios), max(ratios)], "error": error,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        for shape in SHAPES:
            for masked in (False, True):
                row = race(shape, dtype, masked, arguments.repeats)
                results.append(row)
                low, high = row["spread"]  # type: ignore[misc]
                print(f"{row['dtype']:9} {shape!s:20} documents={masked!s:6} ours/fused {row['ratio']:.2f} "
                      f"({low:.2f}–{high:.2f})  error {row['error']}", flush=True)  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a", encoding="utf-8") as file:
        record = {"benchmark": "attention", "rows": results, "torch": torch.__version__, "threads": arguments.threads}
        file.write(json.dumps(record | {"processor": platform.processor()}) + "\n")


if __name__ == "__main__":
    main()
