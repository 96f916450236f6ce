"""Ternary inference against fp32 torch, interleaved in one process: prefill, decode, and the size of the file.

    python benchmarks/ternary.py [--rounds 7] [--threads 2] [--clock wall] [--out benchmarks/results/ternary.json]

The model is an untrained Llama of the reference size (width 512, 8 layers, 8,192 tokens): speed and size do not
depend on what was learnt. The three forms take turns within a round, so that a busy machine slows all of them; the
figure is the median over rounds of the ratio within a round, with the smallest and largest beside it. On a machine
that others use too, ``--threads 1 --clock cpu`` counts processor seconds of this process, not the time on the wall.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model.packed_file import round_for_packing, write_packed
from agent_forge.model.ternary import PER_TENSOR, Layout, TernaryLinear
from agent_forge.model.ternary_selection import Selection, select
from agent_forge.phases.bitnet.int8_prefill import use_int8
from agent_forge.phases.bitnet.pack_gguf import BLOCK_BYTES


class _Marks:
    """The five special tokens of the house tokenizer."""

    all_special_ids = (0, 1, 2, 3, 4)
    added_tokens_decoder = ()


def reference_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1024, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=1024, tie_word_embeddings=True,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def ternary_model(model: LlamaForCausalLM, embedding_bits: int) -> tuple[LlamaForCausalLM, Selection]:
    quantized = copy.deepcopy(model)
    selection = select(quantized, _Marks)
    for linear in selection.linears.values():
        TernaryLinear.from_linear(linear, Layout(PER_TENSOR)).freeze()
    round_for_packing(quantized, selection.tables, selection.special_rows, embedding_bits=embedding_bits)
    return quantized, selection


def sizes(model: LlamaForCausalLM) -> dict[str, float]:
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain"
        save_file({name: parameter.detach().clone() for name, parameter in model.named_parameters()}, path)
        found["fp32"] = path.stat().st_size
        for bits in (8, 16):
            quantized, selection = ternary_model(model, bits)
            size = write_packed(quantized, Path(folder) / f"{bits}", selection.tables, selection.special_rows)
            found[f"packed, {bits}-bit embeddings"] = size
    body = sum(linear.weight.numel() for linear in select(model, _Marks).linears.values())
    rest = found["fp32"] / 4 - body
    for kind, block in BLOCK_BYTES.items():
        # What llama.cpp writes: ternary blocks, embeddings in Q8_0 (34 bytes for 32 weights).
        found[f"{kind}, Q8_0 embeddings"] = body / 256 * block + rest / 32 * 34
    return found


def seconds(work: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    work()
    return clock() - start


@torch.inference_mode()
def interleaved(
    models: dict[str, LlamaForCausalLM], rounds: int, tokens: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Tokens per second of each model in each round; one token = decode with a filled cache."""
    ids = torch.randint(5, 8000, (1, 128 if tokens == 1 else tokens), generator=torch.Generator().manual_seed(0))
    work: dict[str, Callable[[], object]] = {}
    for name, model in models.items():
        if tokens > 1:
            work[name] = lambda model=model: model(ids, use_cache=False, logits_to_keep=1)
            continue
        cache = model(ids, use_cache=True).past_key_values

        def decode(model: LlamaForCausalLM = model, cache: object = cache) -> None:
            for _ in range(16):
                model(ids[:, :1], past_key_values=cache, use_cache=True)
            cache.crop(-16)  # type: ignore[attr-defined]

        work[name] = decode
    for warm in work.values():
        warm()
    count = 16 if tokens == 1 else tokens
    rates: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, task in work.items():
            rates[name].append(count / seconds(task, clock))
    return rates


def ratio(rates: dict[str, list[float]], name: str) -> dict[str, float]:
    within = [mine / theirs for mine, theirs in zip(rates[name], rates["fp32"], strict=True)]
    return {"median": statistics.median(within), "low": min(within), "high": max(within)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    model = reference_model()
    result: dict[str, object] = {
        "benchmark": "ternary",
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.rounds,
    }
    measured = sizes(model)
    result["bytes"] = measured
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f}M parameters")
    for name, size in measured.items():
        print(f"  {name:28s} {size / 1e6:8.2f} MB   {measured['fp32'] / size:5.2f}x smaller than fp32")
    quantized, _ = ternary_model(model, 8)
    models = {"fp32": model, "fake-quantized": quantized, "int8 x ternary": use_int8(copy.deepcopy(quantized))}
    for label, tokens in (("prefill 128", 128), ("prefill 512", 512), ("decode", 1)):
        rates = interleaved(models, options.rounds, tokens, clock)
        row = {
            name: {"tokens_per_second": statistics.median(found), **ratio(rates, name)} for name, found in rates.items()
        }
        result[label] = row
        for name, entry in row.items():
            spread = f"{entry['median']:.2f}x ({entry['low']:.2f} to {entry['high']:.2f})"
            print(f"  {label:12s} {name:16s} {entry['tokens_per_second']:9.0f} tokens/s   {spread}")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
