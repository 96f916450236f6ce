"""Thoughts at every position: all in one pass a token, against one rollout per position.

    python benchmarks/thoughts.py --length 128 --thought 8

The neighbour is the plain way, on the same weights in the same process: for each position, a forward pass over its past
for each token of its thought, then one pass over the whole. Rounds alternate; the ratio is of the medians, on one
thread and in processor seconds. Also prints the largest difference of the log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.phases.quietstar.thought_sampling import (
    Marks,
    place_by_place,
    sample_place_by_place,
    sample_thoughts,
    think_along,
)

MARKS = Marks(5, 6, (0, 1, 2, 3, 4, 5, 6))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--thought", type=int, default=8)
    parser.add_argument("--talk", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("cognate", "llama"):
        model = build(name, chosen.hidden, chosen.layers)
        ids = torch.randint(7, 512, (1, chosen.length), generator=torch.Generator().manual_seed(0))
        seconds: dict[str, list[float]] = {"parallel": [], "naive": []}
        for _ in range(chosen.rounds):
            for way in seconds:
                start = time.process_time()
                found = once(model, ids, way, chosen.thought, chosen.talk)
                seconds[way].append(time.process_time() - start)
                if way == "parallel":
                    fast = found
        gap = float((fast.log_probs - found.log_probs).abs().max())
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        row = {"benchmark": "thoughts", "model": name, "length": chosen.length, "thought": chosen.thought}
        spread = [slow / quick for slow, quick in zip(seconds["naive"], seconds["parallel"], strict=True)]
        row |= {f"{way}_seconds": value for way, value in medians.items()}
        ratio = medians["naive"] / medians["parallel"]
        print(json.dumps({**row, "ratio": ratio, "ratios": spread, "largest_difference": gap}), flush=True)


@torch.no_grad()
def once(model: torch.nn.Module, ids: torch.Tensor, way: str, length: int, talk: int):
    """Likeliest thoughts of every position, and the pass over them."""
    sample, along = (sample_thoughts, think_along) if way == "parallel" else (sample_place_by_place, place_by_place)
    thoughts = sample(model, ids, MARKS, length=length, temperature=0)
    return along(model, ids, thoughts, MARKS, talk=talk)


def build(name: str, hidden: int, layers: int):
    """A random model of the wanted kind."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 512, "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }  # fmt: skip
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=1024)).eval()
    config = CognateConfig(**shape, short_convolution=0, zero_init_output=False, initializer_range=0.1)
    return CognateForCausalLM(config).eval()


if __name__ == "__main__":
    main()
