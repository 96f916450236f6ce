"""The exported graph against eager fp32 torch, interleaved in one process: first token, tokens/s, parity, bytes.

    python benchmarks/onnx_export.py [--model FOLDER | --memory off] [--text FILE] [--rounds 5] [--threads 2]
                                     [--clock wall]

Without ``--model`` the model has the shape of base25m with the memory that is asked for, random weights, made ternary:
speed and size do not depend on what was learnt. Forms: the model in full precision in eager torch (the neighbour), the
ternary model in eager torch, both flavours in onnxruntime. They take turns within a round; figures are medians over
rounds, ratios are taken within a round. ``--clock cpu`` counts processor seconds, for a machine that others use too
(give it ``--threads 1``: threads that wait for each other count as work). Parity is over 1,000 tokens: those of
``--text``, else random ones.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch

from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.export_onnx import export_onnx
from agent_forge.phases.edge.onnx_session import OnnxSession

PROMPT = 128
DECODED = 64
COMPARED = 1000
PIECE = 250  # tokens of a text that are read in one go, before the next text begins


def reference(folder: Path, memory: str) -> Path:
    """A ternary model of the shape of base25m that was never trained."""
    torch.manual_seed(0)
    model = CognateForCausalLM(CognateConfig(zero_init_output=False, memory=memory)).eval()
    for parameter in model.parameters():
        if not parameter.any():  # an untrained memory is silent, and parity would not see it
            torch.nn.init.normal_(parameter, std=model.config.initializer_range)
    tokenizer = train_tokenizer(["a model that was never trained has nothing to say"], 261)
    selection = select(model, tokenizer)
    for linear in selection.linears.values():
        TernaryLinear.from_linear(linear, Layout(), activation_bits=8)
    finish_student(model, selection)
    save_ternary(model, tokenizer, folder, selection, {})
    return folder


Form: TypeAlias = tuple[Callable[[], None], Callable[[Sequence[int]], int]]
"""How to forget everything, and how to read tokens and say the next."""


def torch_step(model: Any) -> Form:
    held: dict[str, Any] = {}

    def reset() -> None:
        held["cache"] = model.make_cache() if hasattr(model, "make_cache") else None

    @torch.inference_mode()
    def step(tokens: Sequence[int]) -> int:
        output = model(torch.tensor([list(tokens)]), past_key_values=held["cache"], use_cache=True, logits_to_keep=1)
        held["cache"] = output.past_key_values
        return int(output.logits[0, -1].argmax())

    return reset, step


def onnx_step(session: OnnxSession) -> Form:
    return session.reset, lambda tokens: int(session.step(tokens).argmax())


def timed(form: Form, prompt: list[int], clock: Any) -> tuple[float, float]:
    """Seconds to the first token, and tokens per second after it."""
    reset, step = form
    reset()
    start = clock()
    token = step(prompt)
    first = clock() - start
    start = clock()
    for _ in range(DECODED):
        token = step([token])
    return first, DECODED / (clock() - start)


def compare(model: Any, session: OnnxSession, tokens: list[int]) -> dict[str, float]:
    """The graph against the model over the same tokens, and the model against itself, token by token and at once."""
    equal = own_equal = ours_largest = own_largest = 0.0
    for start in range(0, len(tokens), PIECE):
        piece = tokens[start : start + PIECE]
        with torch.inference_mode():
            whole = model(torch.tensor([piece]), use_cache=False).logits[0]
            cache = model.make_cache() if hasattr(model, "make_cache") else None
            rows = []
            for token in piece:
                output = model(torch.tensor([[token]]), past_key_values=cache, use_cache=True)
                cache = output.past_key_values
                rows.append(output.logits[0, -1])
        session.reset()
        ours = torch.from_numpy(np.stack([session.step([token]) for token in piece]))
        theirs = torch.stack(rows)
        equal += float((ours.argmax(-1) == theirs.argmax(-1)).sum())
        own_equal += float((whole.argmax(-1) == theirs.argmax(-1)).sum())
        ours_largest = max(ours_largest, float((ours - theirs).abs().max()))
        own_largest = max(own_largest, float((whole - theirs).abs().max()))
    return {
        "compared_tokens": len(tokens), "equal_top1_fraction": equal / len(tokens),
        "torch_equal_top1_fraction": own_equal / len(tokens),
        "max_logit_difference": ours_largest, "torch_max_logit_difference": own_largest,
    }  # fmt: skip


def measure(folder: Path, place: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    model, tokenizer = load_model(folder)
    plain, _ = load_model(folder)
    for layer in [module for module in plain.modules() if isinstance(module, TernaryLinear)]:
        layer.to_linear()
    facts = {flavour: export_onnx(folder, place / flavour, flavour) for flavour in ("cpu", "web")}
    sessions = {f"onnx-{flavour}": OnnxSession(place / flavour, threads=arguments.threads) for flavour in facts}
    forms = {"torch fp32": torch_step(plain), "torch ternary": torch_step(model)}
    forms |= {name: onnx_step(session) for name, session in sessions.items()}
    vocabulary = min(len(tokenizer), model.config.vocab_size)
    draw = random.Random(0)
    prompt = [draw.randrange(5, vocabulary) for _ in range(PROMPT)]
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    rows: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for number in range(arguments.rounds + 1):
        for name, form in forms.items():
            found = timed(form, prompt, clock)
            if number:  # the first round warms up
                rows[name].append(found)
    neighbour = rows["torch fp32"]
    table = {
        name: {
            "first_token_ms": 1e3 * statistics.median(first for first, _ in found),
            "best_first_token_ms": 1e3 * min(first for first, _ in found),
            "tokens_per_second": statistics.median(rate for _, rate in found),
            "best_tokens_per_second": max(rate for _, rate in found),
            "rate_over_torch_fp32": statistics.median(a[1] / b[1] for a, b in zip(found, neighbour, strict=True)),
            "least_rate_over_torch_fp32": min(a[1] / b[1] for a, b in zip(found, neighbour, strict=True)),
        }
        for name, found in rows.items()
    }
    if arguments.text:
        tokens = tokenizer(Path(arguments.text).read_text(encoding="utf-8"), add_special_tokens=False)["input_ids"]
    else:
        tokens = [draw.randrange(5, vocabulary) for _ in range(COMPARED)]
    parity = {name: compare(model, session, tokens[:COMPARED]) for name, session in sessions.items()}
    return {"speed": table, "exports": facts, "parity": parity}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model")
    parser.add_argument(
        "--memory", choices=("off", "ema", "titans"), default="off", help="of the model of random weights"
    )
    parser.add_argument("--text")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--out", default="benchmarks/results/onnx.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with TemporaryDirectory() as place:
        folder = Path(arguments.model) if arguments.model else reference(Path(place) / "model", arguments.memory)
        found = measure(folder, Path(place), arguments)
    found["settings"] = {name: getattr(arguments, name) for name in ("threads", "clock", "rounds", "memory")}
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
