"""Phase 5 disturbed on purpose: does it recover without help, and does it end where it would have ended?

    python benchmarks/recovery.py --model FOLDER --corpus FOLDER [--preset demo] [--stages 4] [--steps 25] [--seeds 1]
        [--cases ...] [--threads 1] [--out benchmarks/results/recovery.jsonl]

The same run five times, on a ternary checkpoint, with the settings of a preset but practice on drills alone:
undisturbed; chaos of 0.6 injected in the middle of the second stage; one batch whose loss is NaN; a rate that is a
hundred times too high for three steps; and one in which the straight-through estimator passes no gradient on, with
embeddings frozen, which must stall (and say so). The figure is nats per token of worked answers to test questions at
the end, against the undisturbed run: the design asks for at most 1.02. Beside it: how much was learned, as a share of
what the undisturbed run learned; returns to a stable state; warnings. More ``--seeds`` tell how far undisturbed runs
lie apart.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from agent_forge.config import build_config
from agent_forge.data.corpora import Corpus
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import _WeightEstimator
from agent_forge.model.ternary_checkpoint import thaw_student
from agent_forge.model.ternary_selection import special_rows
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.course import Course
from agent_forge.phases.forge.phase import make_course
from agent_forge.pipeline.memory_context import MemoryContext

CALM, STALLED = "undisturbed", "no straight-through"


def chaos(course: Course, at: int) -> None:
    """0.6 is asked for before step ``at``; nobody takes it back."""
    plain, seen = course.learner.step, [0]

    def step(*arguments: Any, **options: Any) -> dict[str, float]:
        seen[0] += 1
        if seen[0] == at:
            course.chaos.value = 0.6
        return plain(*arguments, **options)

    course.learner.step = step  # type: ignore[method-assign]


def poison(course: Course, at: int) -> None:
    """The loss of step ``at`` is NaN."""
    plain, seen = course.learner._loss, [0]

    def loss(*arguments: Any) -> tuple[torch.Tensor, dict[str, float]]:
        seen[0] += 1
        found, parts = plain(*arguments)
        return (found * math.nan, {"forge/loss": math.nan}) if seen[0] == at else (found, parts)

    course.learner._loss = loss  # type: ignore[method-assign]


def spike(course: Course, at: int) -> None:
    """Three steps at a hundred times the rate."""
    plain, seen = course._rate, [0]

    def rate() -> float:
        seen[0] += 1
        return plain() * (100 if at <= seen[0] < at + 3 else 1)

    course._rate = rate  # type: ignore[method-assign]


def calm(course: Course, at: int) -> None:
    """Nothing."""


CASES: dict[str, Callable[[Course, int], None]] = {
    CALM: calm, "chaos 0.6": chaos, "NaN batch": poison, "rate × 100": spike, STALLED: calm,
}  # fmt: skip


def one_run(case: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The course with one disturbance."""
    settings: dict[str, Any] = {
        "stages": options.stages, "stage_steps": options.steps, "domains": ("drills",), "top_level": 3,
        "questions": 40 * options.steps, "assessment_questions": 12, "validation_questions": 12, "test_questions": 64,
        "checkpoint_every": 10, "dream_every": 0, "own_answers": 0, "sequence_length": 96,
    }  # fmt: skip
    settings |= {"train_embeddings": False} if case == STALLED else {}
    config = ForgePhaseConfig(**{**build_config(options.preset, []).forge.model_dump(), **settings})
    with tempfile.TemporaryDirectory() as place:
        context = MemoryContext(Path(place), seed=seed)
        student, tokenizer = load_model(options.model)
        selection, frozen = thaw_student(student, tokenizer)
        corpus, rows = Corpus.open(options.corpus), special_rows(selection)
        course = make_course(config, context, student, tokenizer, selection, frozen, rows, corpus)
        before = course.examiner.answer_loss(course.tested, config.sequence_length)
        CASES[case](course, round(1.5 * options.steps))
        started = time.process_time()
        course.run()
        seconds = time.process_time() - started
        after = course.examiner.answer_loss(course.tested, config.sequence_length)
    return {
        "case": case, "before": before, "after": after, "restores": sum(row["restores"] for row in course.rows),
        "alarms": course.stability.history, "warnings": [f"{name}: {said}" for name, said, _ in context.warnings],
        "refused": course.chaos.refused, "stages": options.stages, "steps": options.steps, "seed": seed,
        "cpu_seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a ternary checkpoint")
    parser.add_argument("--corpus", type=Path, required=True, help="the corpus that it has read")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--stages", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cases", nargs="*", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recovery.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    base = math.nan
    print("| case | nats before | after | against undisturbed | of what that learned | returns | CPU s | warnings |")
    print("|" + "---|" * 8)
    for seed, case in itertools.product(range(42, 42 + options.seeds), options.cases):
        estimator = _WeightEstimator.backward
        if case == STALLED:
            nothing = staticmethod(lambda ctx, *gradients: (torch.zeros_like(gradients[0]), None, None))
            _WeightEstimator.backward = nothing  # type: ignore[assignment,method-assign]
        try:
            row = one_run(case, seed, options)
        finally:
            _WeightEstimator.backward = staticmethod(estimator)  # type: ignore[method-assign]
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        base = row["after"] if case == CALM else base
        learned = (row["before"] - row["after"]) / (row["before"] - base)
        ratio = f"{row['after'] / base:.3f} | {learned:.3f}"
        print(
            f"| {case} | {row['before']:.3f} | {row['after']:.4f} | {ratio} | {row['restores']} "
            f"| {row['cpu_seconds']} | {'; '.join(row['warnings'])} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
