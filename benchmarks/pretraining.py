"""Bits per byte at equal wall-clock: Cognate against the transformers of `transformers`, in one process.

    python benchmarks/pretraining.py --data ../shared/data --seconds-per-contestant 300

Every contestant trains in slices of about ten seconds, round robin, until it has used its seconds: what else the
machine does hits all of them alike. Same tokenizer, same batches as a function of (seed, step), same autocast; only
the training of a contestant counts as its time. The learning rate follows the share of the time that is used, so that
everybody has decayed to zero at the end. Text that nobody trained on is scored per source; a row of JSON is kept.
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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, TokenShard, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.optim.muon_grokfast import matrix_names
from agent_forge.optim.precision import training_precision
from agent_forge.optim.schedules import multiplier

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


@dataclass
class Contestant:
    """One way to train: a model, its optimizers and the learning-rate schedule."""

    name: str
    build: Callable[[int], nn.Module]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor]
    schedule: dict[str, Any] = field(
        default_factory=lambda: {"kind": "wsd", "warmup_fraction": 0.03, "decay_fraction": 0.7}
    )
    clip_norm: float = 1.0


class Run:
    """A contestant on the track: trains for a slice at a time and keeps its own clock."""

    def __init__(
        self, contestant: Contestant, *, seed: int, vocabulary: int, budget: float, precision: torch.dtype
    ) -> None:
        torch.manual_seed(seed)
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
            start = time.perf_counter()
            self._step(batches.batch(self.step))
            taken = time.perf_counter() - start
            self.seconds += taken
            self.step_seconds.append(taken)
            self.step += 1
            self.tokens += batches.tokens_per_step

    def _step(self, batch: dict[str, Tensor]) -> None:
        factor = multiplier(progress=self.seconds / self.budget, **self.contestant.schedule)
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
