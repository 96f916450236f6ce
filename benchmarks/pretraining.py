"""Bits per byte at equal wall-clock: Cognate against models of `transformers`, in one process.

    python benchmarks/pretraining.py --data ../shared/data --seconds-per-contestant 300

Every contestant trains in slices of about ten seconds, round robin, until it has used its seconds: what else the
machine does hits all of them alike. With `--threads 1 --clock cpu` the seconds are those of one core, so that a busy
machine takes nothing from anybody. Same tokenizer, same batches as a function of (seed, step), same autocast; only
training counts as a contestant's time. The learning rate follows the share of the time that is used, so that everybody
has decayed to zero at the end. Text that nobody trained on is scored per source; a row of JSON is kept. `name@rate`
runs a contestant at another peak learning rate.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, TokenShard, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.evaluation.bits_per_byte import score
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.optim.muon_grokfast import matrix_names
from agent_forge.optim.precision import training_precision
from agent_forge.optim.schedules import multiplier
from agent_forge.phases.cognate.config import CognatePhaseConfig
from agent_forge.phases.cognate.objective import Weights, composite_loss
from agent_forge.phases.cognate.stages import make_optimizer

TRAIN = {
    "stories": ["tinystories_v1", "tinystories_second_sample"],
    "gsm8k": ["gsm8k_train"],
    "code": ["python_stdlib_functions", "mbpp_train", "codegen_instruct"],
    "wikipedia": ["wikipedia_en_2015"],
}
HELD_OUT = {
    "stories": "tinystories_v1_valid",
    "gsm8k": "gsm8k_test",
    "code": "mbpp_test",
    "wikipedia": "wikipedia_en_2015_valid",
}
MIXTURE = {"stories": 0.3, "gsm8k": 0.2, "code": 0.2, "wikipedia": 0.3}
SHAPE = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 512}
"""About 3.4M parameters with 4,096 tokens, the same for everybody."""

VARIANTS: dict[str, dict[str, Any]] = {
    "cognate": {},
    "cognate-no-qk-norm": {"model": {"qk_norm": False}},
    "cognate-convolution": {"model": {"short_convolution": 4}},
    "cognate-no-zero-init": {"model": {"zero_init_output": False}},
    "cognate-value-residual": {"model": {"value_residual": True}},
    "cognate-soft-cap": {"model": {"logit_soft_cap": 30.0}},
    "cognate-memory": {"model": {"memory": "ema", "memory_size": 64, "gate": False}},
    "cognate-memory-gate": {"model": {"memory": "ema", "memory_size": 64, "gate": True, "gate_size": 64}},
    "cognate-titans-gate": {"model": {"memory": "titans", "memory_size": 64, "gate": True, "gate_size": 64}},
    "cognate-recursion-2": {"model": {"recursion_steps": 2, "micro_steps": 1}},
    "cognate-recursion-3": {"model": {"recursion_steps": 3}},
    "cognate-recursion-act": {"model": {"recursion_steps": 3, "act": True}},
    "cognate-grokfast": {"grokfast_lambda": 0.3},
    "cognate-composite": {"next_token_weight": 0.7, "coherence_weight": 0.2, "diversity_weight": 0.1},
    "cognate-adamw": {"adamw_only": True},
    "cognate-unmasked": {"masked": False},
    "cognate-ns-3": {"orthogonalization_steps": 3},
}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SCHEDULE: dict[str, Any] = {"kind": "wsd", "warmup_fraction": 0.03, "decay_fraction": 0.7}
PEERS = {
    # (architecture, optimizer, peak learning rate: the best of the rates tried, see docs/log.md)
    "llama-adamw": ("llama", "adamw", 4e-3),
    "llama-muon": ("llama", "muon", 1.2e-2),
    "qwen3-muon": ("qwen3", "muon", 1.2e-2),
}


@dataclass
class Contestant:
    """One way to train: a model, its optimizers and the learning-rate schedule."""

    name: str
    build: Callable[[int], nn.Module]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    clip_norm: float = 1.0
    """0 where the optimizer clips by itself."""


class Run:
    """A contestant on the track: trains for a slice at a time and keeps its own clock."""

    def __init__(
        self, contestant: Contestant, *, seed: int, vocabulary: int, budget: float, precision: torch.dtype,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        torch.manual_seed(seed)
        self.clock = clock
        self.contestant, self.budget, self.precision = contestant, budget, precision
        self.model = contestant.build(vocabulary)
        self.model.train()
        self.optimizers = contestant.optimizers(self.model)
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.seconds, self.step, self.tokens, self.loss = 0.0, 0, 0, math.nan
        self.step_seconds: list[float] = []

    def train(self, batches: Batches, slice_seconds: float) -> None:
        """Trains for at most ``slice_seconds``; always at least one step."""
        begun = self.seconds
        while self.seconds < self.budget and (self.seconds - begun < slice_seconds or self.seconds == begun):
            start = self.clock()
            self._step(batches.batch(self.step))
            taken = self.clock() - start
            self.seconds += taken
            self.step_seconds.append(taken)
            self.step += 1
            self.tokens += batches.tokens_per_step

    def _step(self, batch: dict[str, Tensor]) -> None:
        factor = multiplier(progress=self.seconds / self.budget, **SCHEDULE)
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        with torch.autocast("cpu", dtype=self.precision, enabled=self.precision != torch.float32):
            loss = self.contestant.loss(self.model, batch)
        loss.backward()
        if self.contestant.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.contestant.clip_norm)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.loss = float(loss.detach())


def cognate(name: str, rate: float | None, changes: dict[str, Any]) -> Contestant:
    """Our model as phase 1 trains it: its optimizer, its objective, its chunked head."""
    changes = dict(changes)
    masked, adamw_only = changes.pop("masked", True), changes.pop("adamw_only", False)
    values = changes | {"model": {**SHAPE, "sliding_window": 512, "short_convolution": 0, **changes.get("model", {})}}
    if rate is not None:
        values |= {"learning_rate": rate, "adamw_learning_rate": rate}
    config = CognatePhaseConfig.model_validate(values)
    weights = Weights(
        next_token=config.next_token_weight, coherence=config.coherence_weight, diversity=config.diversity_weight,
        halting=config.halting_weight, gate_entropy=config.gate_entropy_weight, steps=config.step_weights,
        supervised_fraction=config.supervised_fraction, segment_tokens=config.segment_tokens,
    )  # fmt: skip

    def build(vocabulary: int) -> nn.Module:
        return CognateForCausalLM(CognateConfig(**{**config.model.model_dump(), "vocab_size": vocabulary}))

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        documents = batch["document_ids"]
        found = model.features(
            batch["input_ids"], document_ids=documents if masked else None, output_statistics=model.config.has_gate
        )
        value, _ = composite_loss(
            found.steps, found.halting_logits, model.lm_head.weight, batch["labels"], documents, weights,
            gate_entropy=found.statistics.get("gate/entropy"), soft_cap=config.model.logit_soft_cap,
            halting=model.halting,
        )  # fmt: skip
        return value

    def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        return [adamw(model.parameters(), rate or 3e-3)] if adamw_only else [make_optimizer(config, model)]

    return Contestant(name, build, optimizers, loss, clip_norm=1.0 if adamw_only else 0.0)


def peer(name: str, architecture: str, optimizer: str, rate: float) -> Contestant:
    """A model of `transformers` as its users train it."""

    def build(vocabulary: int) -> nn.Module:
        from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

        values = {
            **SHAPE, "vocab_size": vocabulary, "num_key_value_heads": SHAPE["num_attention_heads"],
            "head_dim": SHAPE["hidden_size"] // SHAPE["num_attention_heads"], "max_position_embeddings": 2048,
            "tie_word_embeddings": True, "use_cache": False, "attn_implementation": "sdpa",
            "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        }  # fmt: skip
        return (
            LlamaForCausalLM(LlamaConfig(**values))
            if architecture == "llama"
            else Qwen3ForCausalLM(Qwen3Config(**values))
        )

    def optimizers(model: nn.Module) -> list[torch.optim.Optimizer]:
        if optimizer == "adamw":
            return [adamw(model.parameters(), rate)]
        names = matrix_names(model)
        body = [p for n, p in model.named_parameters() if n in names]
        rest = [p for n, p in model.named_parameters() if n not in names]
        muon = torch.optim.Muon(body, lr=rate, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
        return [muon, adamw(rest, rate)]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(input_ids=batch["input_ids"], labels=batch["labels"], use_cache=False).loss

    return Contestant(name, build, optimizers, loss)


def adamw(parameters: Iterable[nn.Parameter], rate: float) -> torch.optim.AdamW:
    """AdamW with the usual settings of language models: gains are not decayed."""
    every = list(parameters)
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate, betas=(0.9, 0.95), fused=True)


def contestant(text: str) -> Contestant:
    """`name` or `name@rate`."""
    name, _, rate = text.partition("@")
    if name in PEERS:
        architecture, optimizer, tuned = PEERS[name]
        return peer(text, architecture, optimizer, float(rate or tuned))
    if name in VARIANTS:
        return cognate(text, float(rate) if rate else None, VARIANTS[name])
    raise SystemExit(f"unknown contestant {name!r}; there are {', '.join([*PEERS, *VARIANTS])}")


def documents_of(file: Path, domain: str) -> Iterator[Document]:
    """The records of one corpus file as plain text."""
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if "text" in row:
                text = row["text"]
            elif "question" in row:
                text = f"{row['question']}\n{row['answer']}"
            elif "code" in row:
                text = f"{row['prompt']}\n{row['code']}"
            else:
                text = "\n".join(part for part in (row["instruction"], row["input"], row["output"]) if part)
            yield Document(text, domain)


def prepare(
    data: Path, vocabulary: int, max_documents: int
) -> tuple[Any, dict[str, TokenShard], dict[str, list[Document]]]:
    """Tokenizer, training shards and held-out documents by source."""
    training = {
        domain: [doc for name in names for doc in documents_of(data / "train" / f"{name}.jsonl.gz", domain)]
        for domain, names in TRAIN.items()
    }
    sample = [doc.text for docs in training.values() for doc in docs[:1500]]
    tokenizer = train_tokenizer(sample, vocabulary)
    shards = {domain: pack(docs, tokenizer) for domain, docs in training.items()}
    held_out = {
        domain: list(documents_of(data / "eval" / f"{name}.jsonl.gz", domain))[:max_documents]
        for domain, name in HELD_OUT.items()
    }
    return tokenizer, shards, held_out


def race(arguments: argparse.Namespace, seed: int, material: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """One seed: every contestant to the end of its time, then every contestant's figures."""
    tokenizer, shards, held_out = material
    precision = training_precision(arguments.precision)
    batches = Batches(shards, MIXTURE, sequence_length=arguments.length, batch_size=arguments.batch, seed=seed)
    runs = [
        Run(contestant(name), seed=seed, vocabulary=len(tokenizer), budget=arguments.seconds_per_contestant,
            precision=precision, clock=CLOCKS[arguments.clock])
        for name in arguments.contestants
    ]  # fmt: skip
    while any(run.seconds < run.budget for run in runs):
        for run in runs:
            run.train(batches, arguments.slice_seconds)
        shares = ", ".join(f"{run.contestant.name} {run.seconds / run.budget:.0%}" for run in runs[:1])
        print(f"  seed {seed}: {shares} of the time, load {os.getloadavg()[0]:.1f}", flush=True)
    rows = []
    for run in runs:
        bits = {
            domain: score(run.model, tokenizer, documents, autocast=None if precision == torch.float32 else precision)
            .bits_per_byte
            for domain, documents in held_out.items()
        }  # fmt: skip
        rows.append(
            {
                "contestant": run.contestant.name, "seed": seed, "bits_per_byte": bits,
                "mean": statistics.fmean(bits.values()), "steps": run.step,
                "tokens_per_second": run.tokens / run.seconds,
                "median_step_seconds": statistics.median(run.step_seconds), "last_loss": run.loss,
                "parameters": sum(p.numel() for p in run.model.parameters()),
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Means over seeds, and each contestant's ratio to the first one."""
    names = list(dict.fromkeys(row["contestant"] for row in rows))
    lines = [
        f"{'contestant':28} "
        + " ".join(f"{d:>10}" for d in HELD_OUT)
        + "       mean  ratio (by seed)      tok/s  steps"
    ]
    first = {row["seed"]: row["mean"] for row in rows if row["contestant"] == names[0]}
    for name in names:
        own = [row for row in rows if row["contestant"] == name]
        domains = " ".join(f"{statistics.fmean(row['bits_per_byte'][d] for row in own):10.4f}" for d in HELD_OUT)
        ratios = [row["mean"] / first[row["seed"]] for row in own]
        spread = f"{statistics.fmean(ratios):.4f} ({min(ratios):.3f}–{max(ratios):.3f})"
        speed = statistics.fmean(row["tokens_per_second"] for row in own)
        mean = statistics.fmean(row["mean"] for row in own)
        lines.append(f"{name:28} {domains} {mean:10.4f}  {spread} {speed:8.0f} {own[0]['steps']:6}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and eval/")
    parser.add_argument("--seconds-per-contestant", type=float, default=300)
    parser.add_argument("--slice-seconds", type=float, default=10)
    parser.add_argument("--contestants", nargs="+", default=[*PEERS, *VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: seconds of the process's cores")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8, help="windows of a step")
    parser.add_argument("--documents", type=int, default=150, help="held-out documents of each source")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "pretraining.jsonl")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name in arguments.contestants:
        contestant(name)  # refuses an unknown name before any work
    material = prepare(arguments.data, arguments.vocabulary, arguments.documents)
    rows = [row for seed in arguments.seeds for row in race(arguments, seed, material)]
    print(table(rows))
    record = {
        "benchmark": "pretraining", "rows": rows, "torch": torch.__version__, "processor": platform.processor(),
        "settings": {key: str(value) for key, value in vars(arguments).items() if key not in ("data", "out")},
    }  # fmt: skip
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
