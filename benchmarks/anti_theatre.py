"""Do thoughts do something? Phase 3 with several seeds, its thoughts against none, others' and filler.

    python benchmarks/anti_theatre.py --preset demo --model FOLDER --corpus FOLDER --seeds 0 1 2

``--model`` is a checkpoint folder and ``--corpus`` a corpus folder: those of a session are in its home, below
``sessions/NAME``. Each seed practises anew and is asked the same questions four times. Prints a JSON row for each seed
and one with means and the smallest gain. "Helps" means that the lower end of the paired 95% interval is above zero for
every seed; "helps_hardest" the same for the loss on the hardest tenth of the right answers' tokens, against none and
filler.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from agent_forge.config import build_config
from agent_forge.contract import one
from agent_forge.phases import load
from agent_forge.phases.quietstar.measurement import CONTROLS
from agent_forge.pipeline.memory_context import MemoryContext


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--set", action="append", default=[], help="quietstar.key=value")
    parser.add_argument("--keep", type=Path, help="folder for the checkpoints, one of each seed")
    parser.add_argument("--show", action="store_true", help="print some thoughts")
    chosen = parser.parse_args()

    import torch

    torch.set_num_threads(chosen.threads)
    config = build_config(chosen.preset, chosen.set).quietstar
    rows = [run(config, chosen, seed) for seed in chosen.seeds]
    means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0] if name != "by_kind"}
    smallest = {f"smallest_{name}": min(row[f"sure_gain_over_{name}"] for row in rows) for name in CONTROLS}
    helps = all(value > 0 for value in smallest.values())
    on_hardest = [min(row[f"sure_hardest_tokens_gain_over_{name}"] for row in rows) for name in ("off", "filler")]
    smallest |= dict(zip(("smallest_hardest_off", "smallest_hardest_filler"), on_hardest, strict=True))
    row = {"benchmark": "anti_theatre", "preset": chosen.preset, **means, **smallest}
    print(json.dumps({**row, "helps": helps, "helps_hardest": min(on_hardest) > 0}))


def run(config: object, chosen: argparse.Namespace, seed: int) -> dict[str, object]:
    """One seed: the phase from the start."""
    with tempfile.TemporaryDirectory() as place:
        context = MemoryContext(Path(place), seed=seed, device=chosen.device)
        inputs = {
            "model": context.adopt("checkpoint", chosen.model),
            "corpus": context.adopt("corpus", chosen.corpus),
        }
        start, cpu = time.perf_counter(), time.process_time()
        made = one(load("quietstar").run(config, inputs, context), "model")
        row: dict[str, object] = {name.removeprefix("quietstar/"): value for name, value in context.measured.items()}
        row |= {"seed": seed, "seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        if chosen.keep is not None:
            shutil.copytree(context.path(made), chosen.keep / f"seed-{seed}", dirs_exist_ok=True)
        page = context.attachments["quietstar"]
        print(json.dumps({**row, "by_kind": page["by_kind"], "nats_by_kind": page["nats_by_kind"]}), flush=True)
        if chosen.show:
            for sample in page["samples"]:
                print(sample, file=sys.stderr)
        for step, metrics in context.logged[:: max(1, len(context.logged) // 8)]:
            print(step, {name: round(value, 4) for name, value in metrics.items()}, file=sys.stderr)
        for warning in context.warnings:
            print(warning, file=sys.stderr)
    return row


if __name__ == "__main__":
    main()
