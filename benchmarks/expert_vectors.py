"""Expert vectors against LoRA of rank 8 (peft) at equal data: three skills, three seeds.

    python benchmarks/expert_vectors.py --model FOLDER --corpus FOLDER --seeds 0 1 2

For each seed an expert of every skill is trained as phase 7 does it, and an adapter of every skill on the same batches
for as many steps (all body matrices, Adam, the same schedule). Both are measured on the same test split: right answers
to questions (greedy) and nats per token of worked answers. Prints a row for each seed and one with means:
``share_of_gain`` is what the expert gains over what LoRA gains, ``share_of_parameters`` the same for what is trained.
Dispatch, mixtures, the identity and REINFORCE (apart from the warm start, selection split) are in the seeds' rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, pack
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import basis_of
from agent_forge.model.roles import quantizable_linears
from agent_forge.optim import lora_delta
from agent_forge.phases.edge.expert_course import train_experts
from agent_forge.phases.edge.expert_lesson import ExpertSettings, Standing, Teacher
from agent_forge.phases.edge.expert_training import rate_at, supervised_loss
from agent_forge.phases.edge.skills import Skill, gather


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--skills", nargs="+", default=["thoughts/view", "drills/largest", "thoughts/decompose"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--policy-steps", type=int, default=4)
    parser.add_argument("--rank", type=int, default=128, help="singular values of each matrix")
    parser.add_argument("--adapter-rank", type=int, default=8)
    parser.add_argument("--adapter-rate", type=float, default=0.01, help="best of 0.005, 0.01, 0.015 (drills/largest)")
    parser.add_argument("--test-documents", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = ExpertSettings(
        rank=chosen.rank, steps=chosen.steps, policy_steps=chosen.policy_steps, train_documents=700,
        test_documents=chosen.test_documents,
    )  # fmt: skip
    rows = [run(chosen, settings, seed) for seed in chosen.seeds]
    print(json.dumps({"benchmark": "expert_vectors", "summary": True, **summary(rows)}), flush=True)


def run(chosen: argparse.Namespace, settings: ExpertSettings, seed: int) -> dict[str, Any]:
    """One seed: all experts, then all adapters."""
    model, tokenizer = load_model(chosen.model)
    corpus = Corpus.open(chosen.corpus)
    start = time.process_time()
    found = train_experts(model, tokenizer, corpus, skills=chosen.skills, settings=settings, seed=seed)
    row: dict[str, Any] = {"benchmark": "expert_vectors", "seed": seed, "cpu_seconds": time.process_time() - start}
    row |= {name.removeprefix("edge/"): value for name, value in found.measured.items()}
    row |= {"skipped": found.skipped, "mixtures": found.page.get("mixtures"), "lessons": found.page["lessons"]}
    teacher = Teacher(
        model, tokenizer, basis_of(model, settings.rank), settings, seed=seed, observe=lambda figures, step: None
    )
    counts: Any = {"train": settings.train_documents, "selection": 1, "test": settings.test_documents}
    row["skills"] = {}
    for name in chosen.skills:
        skill = gather(name, corpus, seed=seed, levels=settings.levels, counts=counts)
        adapter, parameters = with_adapter(teacher, skill, chosen.adapter_rank, chosen.adapter_rate)
        figures = found.page["skills"].get(name) if found.experts else None
        if figures is None:  # left out: the expert gains nothing, and that is what counts
            base = teacher.standing(skill.test).to_json()
            figures = {"base": base, "expert": base}
        row["skills"][name] = {**figures, "adapter": adapter.to_json()}
        row["adapter_parameters"] = parameters
    print(json.dumps(row), flush=True)
    return row


def with_adapter(teacher: Teacher, skill: Skill, rank: int, rate: float) -> tuple[Standing, int]:
    """LoRA on the batches of the warm start: what the model can do with it, and how many parameters it has."""
    model, settings = teacher.model, teacher.settings
    batches = Batches(
        {skill.name: pack(skill.train.documents, teacher.tokenizer)}, {skill.name: 1.0},
        sequence_length=settings.sequence_length, batch_size=settings.batch_size, seed=teacher.seed,
        mask_prompts=True, pad_id=teacher.tokenizer.pad_token_id or 0,
    )  # fmt: skip
    names = [name for name, _ in quantizable_linears(model)]
    generator = torch.Generator().manual_seed(teacher.seed)
    added = set(lora_delta.attach(model, names, rank=rank, generator=generator, alpha=2 * rank))
    parameters = [each.requires_grad_(True) for name, each in model.named_parameters() if name in added]
    optimizer = torch.optim.Adam(parameters, lr=rate, betas=(0.9, 0.99))
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = rate * rate_at(step, settings.steps)
        loss = supervised_loss(model, batches.batch(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    standing = teacher.standing(skill.test)
    lora_delta.take_off(model)
    return standing, sum(each.numel() for each in parameters)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds: by skill, and the smallest and largest of what must hold for every seed."""
    skills: dict[str, Any] = {}
    for name in rows[0]["skills"]:
        told = [row["skills"][name] for row in rows]
        means = {
            who: {figure: statistics.mean(each[who][figure] for each in told) for figure in ("nats", "accuracy")}
            for who in ("base", "expert", "adapter")
        }
        shares = {}
        for figure in ("nats", "accuracy"):
            expert, adapter = (means[who][figure] - means["base"][figure] for who in ("expert", "adapter"))
            shares[figure] = expert / adapter if adapter else float("nan")
        each = [
            (one["expert"]["accuracy"] - one["base"]["accuracy"])
            / (one["adapter"]["accuracy"] - one["base"]["accuracy"])
            for one in told
            if one["adapter"]["accuracy"] != one["base"]["accuracy"]
        ]
        skills[name] = {**means, "share_of_gain": shares, "share_of_accuracy_gain_by_seed": each}
    return {
        "seeds": len(rows),
        "skills": skills,
        "share_of_parameters": rows[0]["expert_parameters"] / rows[0]["adapter_parameters"],
        "identity_exact": min(row["expert_identity_exact"] for row in rows),
        "least_dispatch_accuracy": min(row.get("dispatch_accuracy", 0.0) for row in rows),
        "worst_mixture_gain_fraction": min(row.get("mixture_worst_gain_fraction", 0.0) for row in rows),
        "warm_start_accuracy": statistics.mean(row.get("warm_start_accuracy", 0.0) for row in rows),
        "reinforce_accuracy": statistics.mean(row.get("reinforce_accuracy", 0.0) for row in rows),
    }


if __name__ == "__main__":
    main()
