"""A searched design against eight by hand, random search and random recombination, with equally many evaluations.

    python benchmarks/architecture_search.py --model AGENT --corpus CORPUS [--seeds 0 1 2] [--out FILE]

The agent is a checkpoint with tools and thoughts, and with experts if it has some; the corpus is that of its run: the
people it knows, and ordinary questions. Each seed has questions of its own, of the families on which the agent asked
once is right in 20 to 80 per cent of the cases, and a first pass fitted on questions of the training split. Every side
measures equally many designs, those by hand among them, ranks them by the same questions and chooses among its
finalists on the same further ones, all of the selection split:

- searched: NSGA-II with a row for each kind of question;
- random: designs drawn from the same space;
- recombined: designs by hand, put together at random, kind by kind;
- composed: the choice by kind that the search ends with, among the designs by hand alone: what evolution adds to it.

All of them and all designs by hand (seven alike for every kind, and one routed by what an engineer would guess) are
asked the test split: the best by hand there is what the search has to beat. Prints a JSON row for each seed, and one
for all questions of all seeds together: differences in accuracy with 95% intervals of a paired bootstrap over
questions. Processor seconds are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent_forge.agent.equipment import with_experts
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import load_experts
from agent_forge.phases.edge.architecture_search import search_design
from agent_forge.phases.edge.design_course import kinds_of
from agent_forge.phases.edge.design_ledger import Questions
from agent_forge.phases.edge.design_questions import mixed, sources, with_head_room
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.phases.edge.design_verdict import Control, Searched

CONTROLS: tuple[Control, ...] = ("random", "recombined", "composed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=48)
    parser.add_argument("--ranking", type=int, default=192)
    parser.add_argument("--further", type=int, default=96)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--out", type=Path, default=None)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    for seed in chosen.seeds:
        start = time.process_time()
        found.append(once(chosen, seed))
        row: dict[str, Any] = {"benchmark": "architecture_search", "seed": seed, **found[-1].measured}
        row |= {"processor_seconds": time.process_time() - start, "page": found[-1].page}
        show(row, chosen.out)
    if all("random" in each.trials for each in found):
        show({"benchmark": "architecture_search", "seeds": chosen.seeds, **pooled(found)}, chosen.out)


def once(chosen: argparse.Namespace, seed: int) -> Searched:
    """One search, with questions of its own."""
    model, tokenizer = load_model(chosen.model)
    toolbox, corpus = Toolbox.load(chosen.model), Corpus.open(chosen.corpus)
    practice = json.loads((chosen.model / "forge.json").read_text(encoding="utf-8")).get("practice")
    experts, _ = load_experts(chosen.model, model)
    bench = Bench(model, tokenizer, toolbox, seed=seed, equip=with_experts(experts))
    space = DesignSpace.of(
        tokenizer, toolbox, max_samples=chosen.samples, experts=({}, *({each.name: 1.0} for each in experts))
    )
    every = sources(practice, toolbox, world=corpus.world(seed), seed=seed)
    families, shares = with_head_room(every, lambda asked: bench.measure(space.habit, asked).right, 16)
    kinds = kinds_of(bench, every, list(families), corpus)
    selection = mixed(families, "selection", chosen.ranking + chosen.further)
    questions = Questions(
        selection[: chosen.ranking], selection[chosen.ranking :], mixed(families, "test", chosen.test)
    )
    found = search_design(
        bench, questions, space.routed(kinds.natures), evaluations=chosen.evaluations, controls=CONTROLS, seed=seed
    )
    told = bench.recognised([problem.ask for problem in questions.test])
    found.measured["kind_accuracy"] = kinds.accuracy(questions.test, told)
    found.page |= {"kinds": list(kinds.natures), "head_room": shares}
    return found


def pooled(found: list[Searched]) -> dict[str, float]:
    """All questions of all seeds as one."""
    right = {
        name: np.concatenate([np.array(each.trials[name].right, float) for each in found]) for name in found[0].trials
    }
    row = {f"{name}_test_accuracy": float(values.mean()) for name, values in right.items()}
    for name in right:
        row[f"{name}_test_tokens"] = float(np.mean(np.concatenate([each.trials[name].tokens for each in found])))
        if name != "searched":
            gap = paired_bootstrap(right["searched"], right[name])
            row |= {f"over_{name}": gap.difference, f"over_{name}_low": gap.low, f"over_{name}_high": gap.high}
    return row | {"questions": len(right["searched"])}


def show(row: dict[str, Any], out: Path | None) -> None:
    print(json.dumps(row), flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
