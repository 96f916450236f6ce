"""Does each trick of phase 5 help? One runner: every trick switched on or off, the same steps, paired over seeds.

    python benchmarks/ablation.py [--arms dreams chaos] [--seeds 3] [--stages 5] [--steps 120] [--threads 1]
        [--work DIR] [--out benchmarks/results/ablation.jsonl] [--report]

A small ternary Cognate (width 64, 2 layers) is trained once on text of the synthetic world and easy drills. Then
phase 5 runs on it: the reference practises all levels alike and has no trick, every arm differs from it in one setting.
Judged on drills of all levels that nobody trained on (test split): accuracy, nats per answer token, ordinary text in
bits per byte, and points forgotten. Paired: the same seed gives the same order of questions, the same test questions
to all. "Helps" is p < 0.05 of the paired t-test over seeds *and* an interval of the paired bootstrap over questions
that leaves zero out. Finished runs are rows of ``--out`` and are not repeated; ``--report`` only prints the table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent_forge.contract import one
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.evaluation.tasks import exact_match
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names
from agent_forge.optim.schedules import multiplier
from agent_forge.phases import load
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.examiner import answer_nats
from agent_forge.phases.forge.questions import Questions
from agent_forge.pipeline.memory_context import MemoryContext

ARMS: dict[str, dict[str, Any]] = {
    "reference": {},
    "edge by kind": {"sampling": "edge"},
    "one edge": {"sampling": "one-edge"},
    "chaos": {"chaos": 0.1, "chaos_gain": 0.2},
    "own answers": {"own_answers": 64},
    "dreams": {"dream_every": 1},
    "self-modelling": {"self_modelling_weight": 0.1},
    "grokfast": {"grokfast_lambda": 0.5},
}
DOMAINS = ("drills",)


def make_base(folder: Path, steps: int) -> None:
    """Corpus and ternary model, made once."""
    if (folder / "model" / "ternary.json").exists():
        return
    if not (folder / "corpus").exists():
        ingest(["synthetic"], folder / "corpus", seed=0, synthetic_bytes=300_000, levels=(1, 2))
    corpus = Corpus.open(folder / "corpus")
    drills = [q.worked for n in (1, 2) for q in Questions(1, DOMAINS).draw(n, "train", 3000)[0]]
    tokenizer = train_tokenizer([*corpus.training_texts(250_000), *(d.text for d in drills)], 512)
    shards = {domain: pack(corpus.documents(domain, "train"), tokenizer) for domain in corpus.domains}
    shards["drills"] = pack(drills, tokenizer)
    weights = {**corpus.mixture(), "drills": 1.0}
    batches = Batches(shards, weights, sequence_length=64, batch_size=16, seed=0, mask_prompts=True)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = CognateForCausalLM(CognateConfig(vocab_size=512, sliding_window=64, **shape))
    for linear in select(model, tokenizer).linears.values():
        TernaryLinear.from_linear(linear, Layout())
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), lr=1e-2, adamw_lr=5e-3)
    for step in range(steps):
        optimizer.set_rate(multiplier("cosine", step / steps, warmup_fraction=0.05, floor=0.05))
        loss = model(**batches.batch(step), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    selection = select(model.eval(), tokenizer)
    finish_student(model, selection)
    save_ternary(model, tokenizer, folder / "model", selection, {"phase": "bitnet"})


def one_run(folder: Path, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Phase 5 with one arm's settings, judged on every level."""
    settings: dict[str, Any] = {
        "stages": options.stages, "stage_steps": options.steps, "domains": DOMAINS, "top_level": options.top,
        "questions": 1500, "assessment_questions": 32, "answer_tokens": 40, "sequence_length": 64, "batch_size": 16,
        "precision": "fp32", "learning_rate": options.rate, "other_learning_rate": options.rate / 2,
        "text_fraction": 0.15, "validation_questions": 32, "test_questions": 16, "test_documents": 24,
        "checkpoint_every": 10**6, "dream_questions": 128,
    }  # fmt: skip
    config = ForgePhaseConfig(**{**settings, **ARMS[arm]})
    with tempfile.TemporaryDirectory() as place:
        context = MemoryContext(Path(place), seed=seed)
        inputs = {
            "model": context.adopt("checkpoint", folder / "model"),
            "corpus": context.adopt("corpus", folder / "corpus"),
        }
        start = time.process_time()
        made = one(load("forge").run(config, inputs, context), "model")
        seconds = time.process_time() - start
        model, tokenizer = load_model(context.path(made))
    asked = Questions(0, DOMAINS).held_out(range(1, options.top + 1), "test", options.questions)
    correct, nats = {}, {}
    for level, found in asked.items():
        score = exact_match(model, tokenizer, [q.task for q in found], 40)
        correct[level] = score.correct.astype(int).tolist()
        total, tokens = answer_nats(model, tokenizer, [q.worked for q in found], 256)
        nats[level] = total / tokens
    return {
        "arm": arm, "seed": seed, "stages": options.stages, "steps": options.steps, "rate": options.rate,
        "correct": correct, "nats": nats, "cpu_seconds": round(seconds, 1),
        "measured": dict(context.measured),
        "warnings": [failure for failure, _, _ in context.warnings],
        "dreams": [row["dream"] for row in context.attachments["forge"]["stages"] if "dream" in row],
    }  # fmt: skip


def student_t(differences: Sequence[float]) -> float:
    """Two-sided p of the paired t-test; 1 for fewer than two pairs or no spread at zero."""
    n = len(differences)
    if n < 2:
        return 1.0
    spread = statistics.stdev(differences)
    if spread == 0:
        return 1.0 if statistics.mean(differences) == 0 else 0.0
    t = abs(statistics.mean(differences)) / (spread / math.sqrt(n))
    # P(T > t) by Simpson's rule over the angle u, with T = √ν · tan u
    degrees = n - 1
    first = math.atan(t / math.sqrt(degrees))
    grid = np.linspace(first, math.pi / 2, 2001)
    density = np.cos(grid) ** (degrees - 1)
    weights = np.ones(2001)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    tail = float((weights * density).sum() * (grid[1] - grid[0]) / 3)
    norm = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    return min(1.0, 2 * norm * tail)


def report(rows: list[dict[str, Any]]) -> None:
    """Every arm against the reference, on the seeds that both have."""
    by = {(row["arm"], row["seed"]): row for row in rows}

    def flat(row: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.asarray(found) for _, found in sorted(row["correct"].items())])

    print(f"{'arm':18s} seeds  accuracy   difference (95% of questions)     p      nats   text    forgot  brier")
    for arm in ARMS:
        seeds = sorted(seed for name, seed in by if name == arm and ("reference", seed) in by)
        if not seeds:
            continue
        mine, base = ([by[name, seed] for seed in seeds] for name in (arm, "reference"))
        differences = [float(flat(a).mean() - flat(b).mean()) for a, b in zip(mine, base, strict=True)]
        drawn = paired_bootstrap(sum(map(flat, mine)) / len(seeds), sum(map(flat, base)) / len(seeds))
        mean = {
            "accuracy": statistics.mean(float(flat(row).mean()) for row in mine),
            "nats": statistics.mean(statistics.mean(row["nats"].values()) for row in mine),
        }
        for name in ("bits_per_byte", "forgetting_points", "brier"):
            mean[name] = statistics.mean(row["measured"][f"forge/{name}"] for row in mine)
        print(
            f"{arm:18s} {len(seeds):5d}  {mean['accuracy']:8.3f}   {statistics.mean(differences):+.3f} "
            f"({drawn.low:+.3f} to {drawn.high:+.3f})   {student_t(differences):6.3f}  {mean['nats']:6.3f} "
            f"{mean['bits_per_byte']:6.3f}  {mean['forgetting_points']:6.2f}  {mean['brier']:.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--stages", type=int, default=5)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--top", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--questions", type=int, default=150)
    parser.add_argument("--base-steps", type=int, default=900)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "agent-forge-ablation")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ablation.jsonl"))
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    if not options.report:
        options.work.mkdir(parents=True, exist_ok=True)
        make_base(options.work, options.base_steps)
        for seed in range(options.seeds):
            for arm in options.arms:
                if any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                    continue
                row = json.loads(json.dumps(one_run(options.work, arm, seed, options)))
                rows.append(row)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                right = [statistics.mean(found) for found in row["correct"].values()]
                print(f"seed {seed}, {arm}: {[round(x, 3) for x in right]} in {row['cpu_seconds']} s", flush=True)
    report(rows)


if __name__ == "__main__":
    main()
