"""Addition modulo 97 with and without Grokfast: how many steps until the validation half is understood?

    python benchmarks/grokking.py [--seeds 3] [--steps 20000] [--lambdas 0 2 5] [--ternary] [--width 128] [--layers 2]
        [--threads 1] [--device cpu] [--out benchmarks/results/grokking.jsonl] [--report]

The task of Power et al. 2022 (arXiv:2201.02177): ``a + b =`` over all pairs modulo 97, half of them for training,
full knowledge of the rest is generalisation that comes long after training accuracy is perfect. The setting is that
of Lee et al. 2024 (Grokfast, arXiv:2405.20233, section 4.1): a small transformer, AdamW, batches of 512; λ and α of
the filter as given. Token embeddings begin at the standard deviation 1 of that paper's code: with the 0.02 of
language models this network understands at once, and there is nothing to make faster. Same seed, same split, same
order of batches in every arm. A row is one run: the first step at which 95% of the validation half is right (or none,
and then the run counts as ``--steps``); the figure is the median over seeds of steps with the filter over steps
without. ``--ternary`` runs the body through the straight-through estimator, as phase 5 does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.optim.muon_grokfast import MuonGrokfast

P = 97
EQUALS = P


def pairs(seed: int, fraction: float, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Training and validation rows [N, 4]: a, b, =, a + b."""
    a, b = torch.meshgrid(torch.arange(P), torch.arange(P), indexing="ij")
    rows = torch.stack([a.flatten(), b.flatten(), torch.full((P * P,), EQUALS), ((a + b) % P).flatten()], 1)
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))].to(device)
    cut = round(fraction * len(rows))
    return rows[:cut], rows[cut:]


def make_model(seed: int, options: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=P + 1, hidden_size=options.width, intermediate_size=4 * options.width,
        num_hidden_layers=options.layers, num_attention_heads=4,
        max_position_embeddings=8, tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=options.embedding_std)
    if options.ternary:
        for _, linear in list(quantizable_linears(model)):
            TernaryLinear.from_linear(linear, Layout(), activation_bits=0)
    return model.to(options.device)


@torch.no_grad()
def accuracy(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    logits = model(input_ids=rows[:, :3], use_cache=False).logits[:, -1]
    return float((logits.argmax(-1) == rows[:, 3]).float().mean())


def one_run(seed: int, strength: float, options: argparse.Namespace) -> dict[str, Any]:
    train, validation = pairs(seed, options.fraction, options.device)
    model = make_model(seed, options)
    optimizer = MuonGrokfast(
        model.named_parameters(), set(), lr=options.rate, adamw_lr=options.rate, weight_decay=options.weight_decay,
        betas=(0.9, 0.98), clip_norm=0.0, grokfast_lambda=strength, grokfast_alpha=options.alpha,
    )  # fmt: skip
    order = torch.Generator().manual_seed(seed)
    started = time.process_time()
    trained_at = understood_at = None
    best = 0.0
    step = 0
    for step in range(1, options.steps + 1):
        rows = train[torch.randint(len(train), (options.batch,), generator=order).to(options.device)]
        logits = model(input_ids=rows[:, :3], use_cache=False).logits[:, -1]
        loss = F.cross_entropy(logits, rows[:, 3])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.set_rate(min(1.0, step / 10))
        optimizer.step()
        if step % options.every == 0:
            found = accuracy(model, validation)
            best = max(best, found)
            if trained_at is None and accuracy(model, train) >= 0.99:
                trained_at = step
            if found >= 0.95:
                understood_at = step
                break
    return {
        "lambda": strength, "seed": seed, "ternary": options.ternary, "steps": options.steps, "ran": step,
        "trained_at": trained_at, "understood_at": understood_at, "best_validation": round(best, 4),
        "cpu_seconds": round(time.process_time() - started, 1), "rate": options.rate, "alpha": options.alpha,
        "weight_decay": options.weight_decay, "width": options.width, "layers": options.layers,
        "embedding_std": options.embedding_std,
    }  # fmt: skip


def report(rows: list[dict[str, Any]]) -> None:
    """Steps by λ, and against the plain optimizer on the same seeds."""
    for ternary in sorted({row["ternary"] for row in rows}):
        own = [row for row in rows if row["ternary"] == ternary]
        plain = {row["seed"]: row["understood_at"] or row["steps"] for row in own if row["lambda"] == 0}
        print("ternary body" if ternary else "full precision")
        for strength in sorted({row["lambda"] for row in own}):
            found = {row["seed"]: row for row in own if row["lambda"] == strength}
            steps = {seed: row["understood_at"] or row["steps"] for seed, row in found.items()}
            never = sum(row["understood_at"] is None for row in found.values())
            both = [steps[seed] / plain[seed] for seed in steps if seed in plain]
            ratio = f"{statistics.median(both):.3f} of the plain steps" if both else "no plain run beside it"
            print(
                f"  lambda {strength:4.1f}: median {statistics.median(steps.values()):8.0f} steps to 95% validation, "
                f"{len(steps)} seeds ({never} never); {ratio}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--lambdas", type=float, nargs="*", default=[0.0, 2.0])
    parser.add_argument("--alpha", type=float, default=0.98)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--fraction", type=float, default=0.5)
    parser.add_argument("--embedding-std", type=float, default=1.0)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--ternary", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/grokking.jsonl"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["lambda"], row["seed"], row["ternary"]) for row in rows}
    for seed in range(0 if options.report else options.seeds):
        for strength in options.lambdas:
            if (strength, seed, options.ternary) in known:
                continue
            row = one_run(seed, strength, options)
            rows.append(row)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    report(rows)


if __name__ == "__main__":
    main()
