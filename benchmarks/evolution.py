"""Evaluations per second of evolution, against what one does without it: merge to disk, load, score.

    AGENT_FORGE_PEERS_PYTHON=.peers-venv/bin/python python benchmarks/evolution.py
        [--rounds 4] [--width 512] [--layers 8] [--tokens 4096] [--out benchmarks/results/evolution.json]

Ours: the genotype is written into the resident model, which reads the texts in one pass. Theirs: `mergekit-yaml`
merges to disk, transformers loads, the same pass over the same texts. Both take turns within a round; the figure is
the median over rounds of the ratio of evaluations per second, once with both passes in float32 and once with ours in
the precision that phase 2 offers for selection (`precision: bf16`). Without the peers' environment, our own merge
to disk stands in, and the row says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from agent_forge.evaluation.bits_per_byte import window_nats
from agent_forge.phases.evomerge.candidate import ParentTensors, Resident
from agent_forge.phases.evomerge.checkpoint_folder import CheckpointFolder
from agent_forge.phases.evomerge.evolution import drawn_from
from agent_forge.phases.evomerge.genotype import COMBINATIONS, random_genotype
from merging import PEERS, checkpoints, command, run_alone, write_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    texts = [(i, torch.randint(8192, (256,), generator=generator).tolist(), 255) for i in range(options.tokens // 256)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = checkpoints(folder, options.width, options.layers)
        parents = ParentTensors(CheckpointFolder(folder / "trunk"), [CheckpointFolder(folder / n) for n in "abc"])
        space = parents.space(4, 0)
        resident = Resident(AutoModelForCausalLM.from_pretrained(folder / "trunk"), parents, space)
        recipe = write_recipe(folder, "dare_ties")
        ours: list[float] = []
        lower: list[float] = []
        express: list[float] = []
        theirs: list[float] = []
        for number in range(options.rounds):
            start = time.perf_counter()
            for combination in COMBINATIONS:
                begin = time.perf_counter()
                model = resident.become(random_genotype(space, drawn_from(number, "g"), combination=combination))
                express.append(time.perf_counter() - begin)
                list(window_nats(model, texts))
            ours.append((time.perf_counter() - start) / len(COMBINATIONS))
            start = time.perf_counter()
            list(window_nats(resident.model, texts, autocast=torch.bfloat16))
            lower.append(time.perf_counter() - start + statistics.mean(express[-len(COMBINATIONS) :]))
            start = time.perf_counter()
            run_alone(command("theirs" if PEERS else "ours", recipe, folder / "out"))
            list(window_nats(AutoModelForCausalLM.from_pretrained(folder / "out"), texts))
            theirs.append(time.perf_counter() - start)
            shutil.rmtree(folder / "out")

    def ratio(mine: list[float]) -> list[float]:
        found = sorted(b / a for a, b in zip(mine, theirs, strict=True))
        return [round(value, 2) for value in (statistics.median(found), found[0], found[-1])]

    row = {
        "parameters": parameters,
        "tokens": options.tokens,
        "against": "mergekit-yaml (dare_ties) + transformers" if PEERS else "our own merge to disk + transformers",
        "ours_evaluations_per_second": round(1 / statistics.median(ours), 3),
        "ours_expression_seconds": round(statistics.median(express), 3),
        "theirs_evaluations_per_second": round(1 / statistics.median(theirs), 3),
        "ratio": ratio(ours),
        "ratio_with_bfloat16_selection": ratio(lower),
    }
    print(json.dumps(row, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
