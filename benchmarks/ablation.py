"""Does each trick of phase 5 help? One runner: every trick switched on or off, the same steps, paired over seeds.

    python benchmarks/ablation.py [--model FOLDER --corpus FOLDER] [--preset demo] [--arms dreams chaos] [--seeds 3]
        [--stages 4] [--steps 25] [--threads 1] [--work DIR] [--out benchmarks/results/ablation.jsonl] [--report]

Phase 5 runs on a ternary checkpoint (``--model`` with its ``--corpus``; without them a small one, width 64, 2 layers,
is trained once on text of the synthetic world and easy drills) with the settings of a preset. The reference practises
all levels alike and has no trick, every arm differs from it in one setting. Judged on drills of all levels that nobody
trained on (test split): accuracy, nats per answer token, points forgotten since the input (mean over levels, a gain
pays for no loss), ordinary text in bits per byte against the input. Paired: the same seed gives the same order of
questions, the same test questions to all. "Helps" is p < 0.05 of the paired t-test over seeds *and* an interval of the
paired bootstrap over questions that leaves zero out. Finished runs are rows of ``--out`` and are not repeated;
``--report`` only prints the table.
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

from agent_forge.config import build_config
from agent_forge.contract import one
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.answer_nats import answer_nats
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
from agent_forge.phases.forge.questions import Questions
from agent_forge.pipeline.memory_context import MemoryContext

DOMAINS = ("drills",)
REFERENCE, INPUT = "reference", "input"
ARMS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "edge by kind": {"sampling": "edge"},
    "one edge": {"sampling": "one-edge"},
    "chaos": {"chaos": 0.1},
    "own answers": {"own_answers": 64},
    # What counts as an earlier level is what a tenth of the answers hold: a young model passes none at 80%.
    "dreams": {"dream_every": 1, "edge_success": 0.05, "advance_success": 0.1},
    "self-modelling": {"self_modelling_weight": 0.1},
    "grokfast": {"grokfast_lambda": 0.5},
}


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


def one_run(model: Path, corpus: Path, arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Phase 5 with one arm's settings, judged on every level."""
    settings: dict[str, Any] = {
        "stages": options.stages, "stage_steps": options.steps, "domains": DOMAINS, "top_level": options.top,
        "questions": 40 * options.steps, "assessment_questions": 24, "validation_questions": 16, "test_questions": 8,
        "test_documents": 12, "checkpoint_every": 10**6, "dream_questions": 96, "sequence_length": 96,
    }  # fmt: skip
    tricks = ("chaos", "chaos_gain", "own_answers", "dream_every", "self_modelling_weight", "grokfast_lambda")
    tricks_off = {**dict.fromkeys(tricks, 0), "sampling": "uniform"}
    preset = build_config(options.preset, []).forge.model_dump()
    config = ForgePhaseConfig(**{**preset, **settings, **tricks_off, **ARMS[arm]})
    with tempfile.TemporaryDirectory() as place:
        context = MemoryContext(Path(place), seed=seed)
        inputs = {"model": context.adopt("checkpoint", model), "corpus": context.adopt("corpus", corpus)}
        start = time.process_time()
        made = one(load("forge").run(config, inputs, context), "model")
        seconds = time.process_time() - start
        judged = judge(context.path(made), options)
    return {
        "arm": arm, "seed": seed, "stages": options.stages, "steps": options.steps, "rate": config.learning_rate,
        **judged, "cpu_seconds": round(seconds, 1), "measured": dict(context.measured),
        "warnings": [failure for failure, _, _ in context.warnings],
        "dreams": [row["dream"] for row in context.attachments["forge"]["stages"] if "dream" in row],
    }  # fmt: skip


def judge(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Right answers and nats per answer token of a checkpoint, by level."""
    model, tokenizer = load_model(folder)
    asked = Questions(0, DOMAINS).held_out(range(1, options.top + 1), "test", options.questions)
    correct, nats = {}, {}
    for level, found in asked.items():
        score = exact_match(model, tokenizer, [q.task for q in found], 40)
        correct[str(level)] = score.correct.astype(int).tolist()
        nats[str(level)] = answer_nats(
            model, tokenizer, [q.worked for q in found], batch_tokens=8192, to_the_end=True
        ).mean
    return {"correct": correct, "nats": nats}


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
    given = next((row for row in rows if row["arm"] == INPUT), None)

    def flat(row: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.asarray(found) for _, found in sorted(row["correct"].items())])

    if given is not None:
        print(f"input: accuracy {flat(given).mean():.3f}, nats {statistics.mean(given['nats'].values()):.3f}")
    print("| arm | seeds | accuracy | difference (95%) | p | nats | difference | p | forgot | text | CPU s |")
    print("|" + "---|" * 11)
    for arm in ARMS:
        seeds = sorted(seed for name, seed in by if name == arm and (REFERENCE, seed) in by)
        if not seeds:
            continue
        mine, base = ([by[name, seed] for seed in seeds] for name in (arm, REFERENCE))
        better = [float(flat(a).mean() - flat(b).mean()) for a, b in zip(mine, base, strict=True)]
        drawn = paired_bootstrap(sum(map(flat, mine)) / len(seeds), sum(map(flat, base)) / len(seeds))
        nats = [[statistics.mean(row["nats"].values()) for row in found] for found in (mine, base)]
        lower = [a - b for a, b in zip(*nats, strict=True)]
        lost = statistics.mean(forgotten(given, row) for row in mine) if given else math.nan
        text = statistics.mean(row["measured"]["forge/bits_per_byte_ratio"] for row in mine)
        seconds = statistics.mean(row["cpu_seconds"] for row in mine)
        print(
            f"| {arm} | {len(seeds)} | {statistics.mean(float(flat(row).mean()) for row in mine):.3f} "
            f"| {statistics.mean(better):+.3f} ({drawn.low:+.3f} to {drawn.high:+.3f}) | {student_t(better):.3f} "
            f"| {statistics.mean(nats[0]):.3f} | {statistics.mean(lower):+.3f} | {student_t(lower):.3f} "
            f"| {lost:.2f} | {text:.4f} | {seconds:.0f} |"
        )


def forgotten(given: dict[str, Any], row: dict[str, Any]) -> float:
    """Points of accuracy lost since the input, mean over levels; a level that gained pays for none that lost."""
    lost = [statistics.mean(found) - statistics.mean(row["correct"][n]) for n, found in given["correct"].items()]
    return 100 * statistics.mean(max(each, 0.0) for each in lost)


def run_all(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Runs what is not among the rows yet; each goes to the file as soon as it is there."""
    model, corpus = options.model, options.corpus
    if model is None or corpus is None:
        options.work.mkdir(parents=True, exist_ok=True)
        make_base(options.work, options.base_steps)
        model, corpus = options.work / "model", options.work / "corpus"

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        right = [round(statistics.mean(found), 3) for found in row["correct"].values()]
        print(f"seed {row['seed']}, {row['arm']}: {right} in {row.get('cpu_seconds', 0)} s", flush=True)

    known = {(row["arm"], row["seed"]) for row in rows}
    if (INPUT, 0) not in known:
        keep({"arm": INPUT, "seed": 0, **judge(model, options)})
    for seed in range(options.seeds):
        for arm in options.arms:
            if (arm, seed) not in known:
                keep(one_run(model, corpus, arm, seed, options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="*", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", type=Path, help="a ternary checkpoint; without it a small one is made")
    parser.add_argument("--corpus", type=Path, help="the corpus that it has read")
    parser.add_argument("--preset", default="demo", help="whose settings of phase 5 the arms share")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--questions", type=int, default=60)
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
        run_all(rows, options)
    report(rows)


if __name__ == "__main__":
    main()
