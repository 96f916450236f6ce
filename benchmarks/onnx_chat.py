"""Answers a second of an agent in PyTorch and as a graph, interleaved in one process, and whether they are the same.

    python benchmarks/onnx_chat.py [--agent demo] [--home demo-home] [--questions 40] [--threads 1] [--clock wall]

Both are talked to as `agent-forge chat` does, tools included. Each question is asked of both, in turn first; ratios are
taken over all questions. Ways: the agent's own design, one greedy attempt, four drawn attempts with a vote. A design
with experts is tried too where the agent has some, with each of them at half its weight. ``--clock cpu`` counts
processor seconds, for a machine that others use too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from agent_forge.agent.design import AgentDesign
from agent_forge.data.practice_dialogues import exchanges
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import load_experts
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.pipeline.resolve import resolve_model
from agent_forge.pipeline.talk import Talk

OPTIONS = {"max_tokens": 60, "temperature": 0.0, "seed": 0, "think": "auto", "thought_budget": 128}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="demo")
    parser.add_argument("--home", type=Path, default=Path("demo-home"))
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    clock = time.process_time if chosen.clock == "cpu" else time.perf_counter
    folder = resolve_model(chosen.agent, chosen.home)
    with TemporaryDirectory() as place:
        for name, design in ways(folder).items():
            given = Path(place, name, "model")
            shutil.copytree(folder, given)
            if design is not None:
                design.save(given)
            facts = export_onnx(given, Path(place, name, "graph"), "cpu")
            talks = [Talk.start(str(each), chosen.home, OPTIONS) for each in (given, Path(place, name, "graph"))]
            row = compared(talks, asked(talks[0], chosen.questions), clock)
            print(json.dumps({"way": name, **row, "graph_bytes": facts["bytes"]}), flush=True)


def ways(folder: Path) -> dict[str, AgentDesign | None]:
    """Designs by name; None = the agent's own."""
    found: dict[str, AgentDesign | None] = {
        "own design": None, "one attempt": AgentDesign(), "four attempts": AgentDesign(samples=4, temperature=0.8),
    }  # fmt: skip
    experts, _ = load_experts(folder, load_model(folder)[0])
    if experts:
        found["experts"] = AgentDesign(experts={expert.name: 0.5 for expert in experts})
    return found


def asked(talk: Talk, count: int) -> list[str]:
    """Questions of the test split about the agent's tools."""
    known = [tool.name for tool in talk.tools()]
    return [each.ask for each in islice(exchanges(1, (1, 2, 3), "test", world=42, tools=known), count)]


def compared(talks: Sequence[Talk], questions: Sequence[str], clock: Callable[[], float]) -> dict[str, Any]:
    """Answers a second of both, the ratio, and the share of answers that are equal word for word."""
    seconds, answers = [0.0, 0.0], [list[str](), list[str]()]
    for number, question in enumerate([questions[0], *questions]):
        for side in (0, 1) if number % 2 else (1, 0):
            start = clock()
            said = talks[side].ask(question).answer
            if number:  # the first one warms up
                seconds[side] += clock() - start
                answers[side].append(said)
    return {
        "torch_answers_per_second": len(questions) / seconds[0],
        "graph_answers_per_second": len(questions) / seconds[1],
        "speedup": seconds[0] / seconds[1],
        "equal_answers": sum(one == other for one, other in zip(*answers, strict=True)) / len(questions),
    }


if __name__ == "__main__":
    main()
