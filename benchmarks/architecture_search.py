"""A searched design against seven by hand and against random search with equally many evaluations.

    python benchmarks/architecture_search.py --model AGENT --world 42 [--seeds 0 1 2] [--out FILE]

The agent is a checkpoint with tools and thoughts. Each seed has questions of its own, of the kinds and levels on which
the agent asked once is right in 20 to 80 per cent of the cases. Evolution and random search try equally many designs,
those by hand among them; each one's most accurate design on the selection split is asked the test split, and so are all
seven by hand: the best of them there is what evolution has to beat. Prints a JSON row for each seed, and one for all
questions of all seeds together: differences in accuracy with 95% intervals of a paired bootstrap over questions.
Processor seconds are of one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.toolbox import Toolbox
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.edge.architecture_search import Questions, Searched, search_design
from agent_forge.phases.edge.design_questions import mixed, sources, with_head_room
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--world", type=int, default=42, help="seed of the people that the agent knows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=48)
    parser.add_argument("--ranking", type=int, default=144)
    parser.add_argument("--test", type=int, default=300)
    parser.add_argument("--samples", type=int, default=8)
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
    toolbox = Toolbox.load(chosen.model)
    practice = json.loads((chosen.model / "forge.json").read_text(encoding="utf-8")).get("practice")
    bench = Bench(model, tokenizer, toolbox, seed=seed)
    space = DesignSpace.of(tokenizer, toolbox, max_samples=chosen.samples)
    habit = AgentDesign(thought_budget=max(space.genes["thought_budget"]))
    families, shares = with_head_room(
        sources(practice, toolbox, world=chosen.world, seed=seed), lambda asked: bench.measure(habit, asked).right, 16
    )
    print(f"seed {seed}: {', '.join(families)} of {shares}", flush=True)
    questions = Questions(mixed(families, "selection", chosen.ranking), (), mixed(families, "test", chosen.test))
    return search_design(bench, questions, space, evaluations=chosen.evaluations, seed=seed)


def pooled(found: list[Searched]) -> dict[str, float]:
    """All questions of all seeds as one."""
    right = {
        name: np.concatenate([np.array(each.trials[name].right, float) for each in found])
        for name in ("searched", "hand_written", "random")
    }
    row = {f"{name}_test_accuracy": float(values.mean()) for name, values in right.items()}
    for name in ("hand_written", "random"):
        gap = paired_bootstrap(right["searched"], right[name])
        row |= {f"over_{name}": gap.difference, f"over_{name}_low": gap.low, f"over_{name}_high": gap.high}
    for name in right:
        row[f"{name}_test_tokens"] = float(np.mean([np.mean(each.trials[name].tokens) for each in found]))
    return row | {"questions": len(right["searched"])}


def show(row: dict[str, Any], out: Path | None) -> None:
    print(json.dumps(row), flush=True)
    if out is not None:
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
