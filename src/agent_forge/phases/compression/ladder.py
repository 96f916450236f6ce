"""Size against quality: the formats that anybody would pick, and ours, measured on the same text.

Sizes are whole files: header, manifest and tokenizer included, so that rungs differ in weights alone. The rung in
llama.cpp's layout is our own rounding to its blocks (TQ1_0: 54 bytes for 256 ternary weights; Q8_0: 34 bytes for 32)
with its sizes; no file of that program is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent_forge.phases.compression import codecs, ternary_coding
from agent_forge.phases.compression.allocation import allocate
from agent_forge.phases.compression.bitstream import Encoded, pack_bits
from agent_forge.phases.compression.forge_file import to_bytes
from agent_forge.phases.compression.plain import compress_bytes, from_groups, round_to_nearest
from agent_forge.phases.compression.quality import Bench, Meter
from agent_forge.phases.compression.shrink import Shrunk, assemble

Rung = tuple[str, int, dict[str, Tensor]]
"""Name, bytes of the whole file, values of the tensors."""

_SMALL = 2048


def ladder(
    shrunk: Shrunk, tokenizer: PreTrainedTokenizerBase, meter: Meter, *, file_bytes: int, stop: Callable[[], None]
) -> list[dict[str, Any]]:
    """Rungs as ``{name, bytes, bits_per_byte, retention}``, the input first, then from large to small.

    The model holds the chosen reconstruction afterwards.
    """
    cascade, bench = shrunk.cascade, shrunk.cascade.bench
    chosen = cascade.values(shrunk.plan)
    overhead = file_bytes - sum(len(one.payload) for one in shrunk.compressed.tensors.values())
    overhead -= sum(map(len, shrunk.compressed.shared.values()))
    rungs = [*_usual(bench, overhead), *_coarser(shrunk, overhead), ("chosen .forge file", file_bytes, chosen)]
    rungs.append(_extreme(shrunk, tokenizer))
    count = sum(tensor.numel() for tensor in bench.tensors.values())
    rows = [_row("fp32", 4 * count + overhead, meter.reference, 1.0)]
    for name, size, values in sorted(rungs, key=lambda rung: -rung[1]):
        stop()
        bench.load(values)
        quality = meter.measure()
        rows.append(_row(name, size, quality.bits_per_byte, quality.retention_fraction))
    bench.load(chosen)
    return rows


def _row(name: str, size: int, bits: float, retention: float) -> dict[str, Any]:
    finite = bits != float("inf")
    return {"name": name, "bytes": size, "bits_per_byte": bits if finite else None, "retention": retention}


def _usual(bench: Bench, overhead: int) -> list[Rung]:
    """fp16, int8 and int4 with zstd, and the ternary formats where there are ternary tensors."""
    forms = {"fp16": "plain/fp16", "int8 + zstd": "plain/int8", "int4 + zstd": "plain/int4"}
    rungs: list[Rung] = []
    for name, option in forms.items():
        encoded = {n: _plain(tensor, option) for n, tensor in bench.tensors.items()}
        size = sum(len(one.payload) for one in encoded.values())
        if option == "plain/fp16":
            size = 2 * sum(tensor.numel() for tensor in bench.tensors.values())
        rungs.append((name, size + overhead, _decoded(encoded)))
    levels = {name: ternary_coding.find_levels(tensor) for name, tensor in bench.tensors.items()}
    ternary = {name: found for name, found in levels.items() if found is not None and found.levels == 3}
    if ternary:
        rest = {n: _plain(tensor, "plain/fp16") for n, tensor in bench.tensors.items() if n not in ternary}
        packed = sum(_two_bits(found) for found in ternary.values()) + sum(len(one.payload) for one in rest.values())
        rungs.append(("ternary 2-bit + zstd, rest fp16", packed + overhead, _decoded(rest)))
        rungs.append(_llama_like(bench, ternary, overhead))
    return rungs


def _coarser(shrunk: Shrunk, overhead: int) -> list[Rung]:
    """The allocation at looser bounds: how the curve goes on below the chosen point."""
    points = {name: list(menu.points.values()) for name, menu in shrunk.cascade.menus.items()}
    rungs, seen = [], {shrunk.predicted[0]}
    for factor in (4, 16):
        found = allocate(points, max_loss=factor * max(shrunk.predicted[1], 1e-4))
        size = sum(point.bytes for point in found.values())
        if size not in seen:
            seen.add(size)
            plan = {name: point.option for name, point in found.items()}
            rungs.append((f"allocation at {factor}× the predicted loss", size + overhead, shrunk.cascade.values(plan)))
    return rungs


def _extreme(shrunk: Shrunk, tokenizer: PreTrainedTokenizerBase) -> Rung:
    """About 0.1 bit a weight, the size that the specification names (280×): what is left there."""
    bench = shrunk.cascade.bench
    encoded = {n: _plain(tensor, f"uniform/{codecs.EXTREME_STEP}") for n, tensor in bench.tensors.items()}
    whole = assemble(bench, encoded, {}, shrunk.compressed.ternary)
    return "everything at about 0.1 bit", len(to_bytes(whole, tokenizer)), _decoded(encoded)


def _plain(tensor: Tensor, option: str) -> Encoded:
    if not tensor.is_floating_point():
        return codecs.encode(tensor, "plain/native")
    if tensor.dim() < 2 or tensor.numel() <= _SMALL:
        return codecs.encode(tensor, "plain/fp16")
    return codecs.encode(tensor, option)


def _decoded(encoded: Mapping[str, Encoded]) -> dict[str, Tensor]:
    return {name: codecs.decode(one) for name, one in encoded.items()}


def _two_bits(found: ternary_coding.LevelGroups) -> int:
    codes = pack_bits((found.codes.reshape(-1) + 1).numpy(), 2)
    scales = found.scales.half().view(torch.int16).numpy().tobytes()
    return min(len(codes), len(compress_bytes(codes))) + len(scales)


def _llama_like(bench: Bench, ternary: Mapping[str, ternary_coding.LevelGroups], overhead: int) -> Rung:
    values, size = {}, overhead
    for name, tensor in bench.tensors.items():
        if tensor.dim() < 2 or not tensor.is_floating_point():
            size += 4 * tensor.numel()
            continue
        levels, group, block_bytes = (3, 256, 54) if name in ternary else (255, 32, 34)
        codes, scales = round_to_nearest(tensor, levels=levels, group=group)
        values[name] = from_groups(codes.float() * scales.float()[..., None], tuple(tensor.shape)).to(tensor.dtype)
        size += block_bytes * scales.numel()
    return "TQ1_0 + Q8_0 (llama.cpp's layout)", size, values
