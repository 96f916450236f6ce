"""`generate`, `eval`: using a model, wherever it lies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_forge.cli.chat import (
    MaxTokens,
    ModelArgument,
    NoDesign,
    Seed,
    ShowThoughts,
    Temperature,
    ThinkBudget,
    ThinkOption,
    decoding,
    show_answer,
)
from agent_forge.cli.options import HomeOption, JsonOption, home_path, print_json


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(generate)
    app.command("eval")(evaluate)


def _load(reference: str, home: Path | None) -> tuple[Any, Any]:
    from agent_forge.pipeline.resolve import load_reference, resolve_model

    return load_reference(resolve_model(reference, home_path(home)))


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to go on from; of an agent, what it is asked.")],
    home: HomeOption = None,
    max_tokens: MaxTokens = 100,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    think: ThinkOption = "auto",
    think_budget: ThinkBudget = 128,
    show_thoughts: ShowThoughts = False,
    no_design: NoDesign = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a text, or have an agent answer it.

    An agent with tools or a design answers as in `chat`; any other model goes on from the text.
    """
    from agent_forge.model.generation import generate_tokens, spoken
    from agent_forge.pipeline.talk import Talk

    options = decoding(max_tokens, temperature, seed, think, think_budget)
    talk = Talk.start(model, home_path(home), options, designed=not no_design)
    if talk.tools() or talk.design is not None:
        if as_json:
            transcript = talk.ask(prompt).to_json()
            print_json({"prompt": prompt, "text": transcript.pop("answer"), "seed": seed} | transcript)
        else:
            show_answer(talk, prompt, show_thoughts=show_thoughts)
        return
    network, tokenizer = talk.model, talk.tokenizer
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids += tokenizer.encode(prompt, add_special_tokens=False)
    start = time.perf_counter()
    tokens = list[int]()
    words = {"said": "", "thought": ""}
    stream = generate_tokens(network, tokenizer, ids, **options)
    for kind, piece in spoken(tokenizer, stream, tokens):
        words[kind] += piece
        if not as_json and (show_thoughts or kind == "said"):
            typer.echo(f"[{piece}]" if kind == "thought" else piece, nl=False)
    if as_json:
        row = {"prompt": prompt, "text": words["said"], "num_tokens": len(tokens)}
        if words["thought"]:
            row["thought"] = words["thought"]
        print_json(row | {"seconds": time.perf_counter() - start, "seed": seed})
    else:
        typer.echo()


def evaluate(
    model: ModelArgument,
    data: Annotated[list[str], typer.Option("--data", help="Text file or folder; repeatable.")],
    home: HomeOption = None,
    max_documents: Annotated[int, typer.Option("--max-documents", min=1, help="Documents per file at most.")] = 500,
    max_tasks: Annotated[int, typer.Option("--max-tasks", min=0, help="Tasks with exact answers per file.")] = 100,
    as_json: JsonOption = False,
) -> None:
    """Measure bits per byte, perplexity and exact answers on text."""
    from agent_forge.cli.show import show_evaluation
    from agent_forge.pipeline.measure import evaluate_sources

    network, tokenizer = _load(model, home)
    rows = evaluate_sources(network, tokenizer, data, max_documents=max_documents, max_tasks=max_tasks)
    if as_json:
        print_json(rows)
    else:
        show_evaluation(rows)
