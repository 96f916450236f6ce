"""Thoughts at every position: all in one pass a token, against one rollout per position. And what thinking costs.

    python benchmarks/thoughts.py --length 128 --thought 8
    python benchmarks/thoughts.py --model FOLDER --corpus FOLDER --preset demo
    python benchmarks/thoughts.py --agent FOLDER --corpus FOLDER

The neighbour is the plain way, on the same weights in the same process: for each position, a forward pass over its past
for each token of its thought, then one pass over the whole. Rounds alternate; the ratio is of the medians, on one
thread and in processor seconds. Also prints the largest difference of the log-probabilities.

With ``--model``, a checkpoint that thinks: one answer after the other, in turn with thoughts and without, to questions
of the test split and as continuations of ordinary text, where it may think if it wants to. Tokens and processor
seconds, those of reading the question included; ratios with thoughts over without.

With ``--agent``, an agent with tools, asked as in a chat (calls are carried out), with thoughts forced, forbidden and
left to it: the questions that thoughts were practised for, questions to its tools, ordinary questions (half of them
requests that need no tool, half tasks of the corpus), and all of these, a third each. Every question is asked in the
three modes one after the other, in turning order. Tokens and processor seconds of an answer, over those without
thoughts, with paired 95% intervals over questions.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.agent.runtime import converse
from agent_forge.agent.tool_exam import expected, questions_about, says, worlds_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.config import build_config
from agent_forge.data.corpora import Corpus
from agent_forge.data.thought_habit import habit_tasks
from agent_forge.data.tokenizer import encode_texts
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.generation import generate_tokens
from agent_forge.phases.quietstar.phase import practice_of
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
    parser.add_argument("--model", type=Path, help="a checkpoint that thinks: measure what an answer costs instead")
    parser.add_argument("--agent", type=Path, help="an agent with tools: measure what answers cost as users meet them")
    parser.add_argument("--corpus", type=Path, help="ordinary text for --model, and the world of --agent")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--answers", type=int, default=40)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.agent is not None:
        usage(chosen)
        return
    if chosen.model is not None:
        overhead(chosen)
        return
    for name in ("cognate", "cognate with convolution", "llama"):
        model = build(name, chosen.hidden, chosen.layers)
        ids = torch.randint(7, 512, (1, chosen.length), generator=torch.Generator().manual_seed(0))
        drawing: dict[str, list[float]] = {"parallel": [], "naive": []}
        whole: dict[str, list[float]] = {"parallel": [], "naive": []}
        for _ in range(chosen.rounds):
            for way in whole:
                found, drawn, both = once(model, ids, way, chosen.thought, chosen.talk)
                drawing[way].append(drawn)
                whole[way].append(both)
                if way == "parallel":
                    fast = found
        gap = float((fast.log_probs - found.log_probs).abs().max())
        row = {"benchmark": "thoughts", "model": name, "length": chosen.length, "thought": chosen.thought}
        for what, seconds in (("drawing", drawing), ("drawing_and_scoring", whole)):
            medians = {way: statistics.median(times) for way, times in seconds.items()}
            row |= {f"{what}_{way}_seconds": value for way, value in medians.items()}
            row[f"{what}_ratio"] = medians["naive"] / medians["parallel"]
            row[f"{what}_ratios"] = [a / b for a, b in zip(seconds["naive"], seconds["parallel"], strict=True)]
        print(json.dumps({**row, "largest_difference": gap}), flush=True)


@torch.no_grad()
def once(model: torch.nn.Module, ids: torch.Tensor, way: str, length: int, talk: int):
    """Likeliest thoughts of every position and the pass over them; processor seconds of the first, and of both."""
    sample, along = (sample_thoughts, think_along) if way == "parallel" else (sample_place_by_place, place_by_place)
    start = time.process_time()
    thoughts = sample(model, ids, MARKS, length=length, temperature=0)
    drawn = time.process_time() - start
    found = along(model, ids, thoughts, MARKS, talk=talk)
    return found, drawn, time.process_time() - start


def overhead(chosen: argparse.Namespace) -> None:
    """Prints what an answer costs with thoughts and without."""
    model, tokenizer = load_model(chosen.model)
    config = build_config(chosen.preset, []).quietstar
    tasks = habit_tasks(practice_of(config, 0), chosen.answers)
    asked = {"questions": (prompt_ids(tokenizer, [task.prompt for task in tasks]), True)}
    if chosen.corpus is not None:
        corpus = Corpus.open(chosen.corpus)
        texts = [each.text for domain in corpus.domains for each in islice(corpus.documents(domain, "test"), 8)]
        asked["ordinary text"] = ([ids[:32] for ids in encode_texts(tokenizer, texts)], "auto")
    for what, (prompts, think) in asked.items():
        tokens: dict[object, list[int]] = {think: [], False: []}
        seconds: dict[object, list[float]] = {think: [], False: []}
        for ids in prompts:
            for way in tokens:
                start = time.process_time()
                said = list(generate_tokens(model, tokenizer, ids, max_tokens=128, think=way, thought_budget=96))
                seconds[way].append(time.process_time() - start)
                tokens[way].append(len(said) + 1)  # the one that ends it
        row: dict[str, object] = {"benchmark": "thinking", "what": what, "answers": len(prompts)}
        for name, way in (("with", think), ("without", False)):
            row |= {f"tokens_{name}": statistics.mean(tokens[way]), f"seconds_{name}": statistics.mean(seconds[way])}
        row["tokens_ratio"] = sum(tokens[think]) / sum(tokens[False])
        row["seconds_ratio"] = sum(seconds[think]) / sum(seconds[False])
        print(json.dumps(row), flush=True)


MODES = {"on": True, "off": False, "auto": "auto"}


@dataclass(frozen=True)
class Asked:
    """One question with its tools, and the words of a right answer."""

    question: str
    core: str
    toolbox: Toolbox


def usage(chosen: argparse.Namespace) -> None:
    """Prints what an answer of an agent costs in each mode, by what it is asked."""
    model, tokenizer = load_model(chosen.agent)
    groups = questions(chosen.agent, Corpus.open(chosen.corpus), chosen.answers)
    found: dict[str, dict[str, list[tuple[float, float, float]]]] = {}
    converse(model, tokenizer, None, [{"role": "user", "content": "Hello."}], max_tokens=8)  # the first call is slower
    for group, asked in groups.items():
        found[group] = {mode: [] for mode in MODES}
        for number, each in enumerate(asked):
            turned = [*MODES][number % 3 :] + [*MODES][: number % 3]
            for mode in turned:
                start = time.process_time()
                said = converse(
                    model, tokenizer, each.toolbox, [{"role": "user", "content": each.question}], think=MODES[mode]
                )
                cost = time.process_time() - start
                found[group][mode].append((said.num_tokens, cost, float(says(said.answer, each.core))))
    found["even mix"] = {mode: [row for rows in found.values() for row in rows[mode]] for mode in MODES}
    for group, modes in found.items():
        off = np.asarray(modes["off"]).T
        for mode, rows in modes.items():
            tokens, seconds, right = np.asarray(rows).T
            row = {"benchmark": "thinking as met", "asked": group, "think": mode, "answers": len(rows)}
            row |= {"right": right.mean(), "tokens": tokens.mean(), "seconds": seconds.mean()}
            for what, own, base in (("tokens", tokens, off[0]), ("seconds", seconds, off[1])):
                more = paired_bootstrap(own, base, base)
                row |= {f"{what}_ratio": 1 + more.difference, f"{what}_interval": [1 + more.low, 1 + more.high]}
            print(json.dumps(row), flush=True)


def questions(agent: Path, corpus: Corpus, count: int) -> dict[str, list[Asked]]:
    """``count`` questions of the test split of each kind."""
    facts = json.loads((agent / "forge.json").read_text(encoding="utf-8"))
    levels = (1, 2, 3)
    worlds = worlds_of(levels, corpus, 0, facts["tools"])
    own = worlds[0][1]
    exchanged = [
        (toolbox, exchange, core)
        for toolbox, exchanges in questions_about(worlds, levels, facts["tools"], "test", 4 * count)
        for exchange in exchanges
        if (core := expected(exchange, toolbox)) is not None
    ]
    tools = [Asked(exchange.ask, core, toolbox) for toolbox, exchange, core in exchanged if exchange.steps]
    plain = [Asked(exchange.ask, core, toolbox) for toolbox, exchange, core in exchanged if not exchange.steps]
    domains = [domain for domain in corpus.domains if domain != "tools"]
    tasks = [
        task
        for rows in zip(*[islice(corpus.tasks(domain, "test"), count) for domain in domains], strict=False)
        for task in rows
        if not task.choices
    ]
    half = count // 2
    return {
        "practised": [Asked(task.prompt, task.answer, own) for task in habit_tasks(facts["practice"], count)],
        "tools": tools[:: max(1, len(tools) // count)][:count],
        "ordinary": [*plain[:half], *(Asked(task.prompt, task.answer, own) for task in tasks[: count - half])],
    }


def build(name: str, hidden: int, layers: int):
    """A random model of the wanted kind."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 512, "hidden_size": hidden, "intermediate_size": 3 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }  # fmt: skip
    if name == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=1024)).eval()
    width = 4 if "convolution" in name else 0
    config = CognateConfig(**shape, short_convolution=width, zero_init_output=False, initializer_range=0.1)
    return CognateForCausalLM(config).eval()


if __name__ == "__main__":
    main()
