"""`chat`, `generate`, `eval`: using a model, wherever it lies."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_forge.cli.options import HomeOption, JsonOption, home_path, print_json

ModelArgument = Annotated[
    str, typer.Argument(help="Checkpoint folder, .forge file, session, session/handoff, or artifact digest.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens at most.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")]
_THINK: dict[str, Any] = {"auto": "auto", "on": True, "off": False}
Seed = Annotated[int, typer.Option("--seed", help="Seed of the sampling.")]


def add_to(app: typer.Typer) -> None:
    """Registers the commands."""
    app.command()(chat)
    app.command()(generate)
    app.command("eval")(evaluate)


def _load(reference: str, home: Path | None) -> tuple[Any, Any]:
    from agent_forge.pipeline.resolve import load_reference, resolve_model

    return load_reference(resolve_model(reference, home_path(home)))


def chat(
    model: ModelArgument,
    home: HomeOption = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
) -> None:
    """Talk to a model. An empty line or Ctrl-D ends the conversation."""
    network, tokenizer = _load(model, home)
    interactive = sys.stdin.isatty()
    if interactive:
        typer.echo("Type a question; an empty line ends.")
    while True:
        try:
            line = input("you> ") if interactive else sys.stdin.readline()
        except EOFError:
            break
        if not line.strip():
            break
        # Each question stands alone: the models of this size are trained on single turns.
        typer.echo("agent> " if interactive else "", nl=False)
        for piece in _answer(network, tokenizer, line.strip(), max_tokens, temperature, seed):
            typer.echo(piece, nl=False)
        typer.echo()


def _answer(network: Any, tokenizer: Any, question: str, max_tokens: int, temperature: float, seed: int) -> Any:
    """Text of the answer, piece by piece."""
    from agent_forge.model.generation import chat_prompt

    prompt = chat_prompt(tokenizer, [{"role": "user", "content": question}])
    yield from _stream(network, tokenizer, prompt, max_tokens, temperature, seed)


def _stream(network: Any, tokenizer: Any, prompt: list[int], max_tokens: int, temperature: float, seed: int) -> Any:
    from agent_forge.model.generation import generate_tokens

    tokens: list[int] = []
    shown = ""
    for token in generate_tokens(network, tokenizer, prompt, max_tokens=max_tokens, temperature=temperature, seed=seed):
        tokens.append(token)
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        if not text.endswith("\ufffd"):  # a character whose bytes are not complete yet
            yield text[len(shown) :]
            shown = text


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option("--prompt", help="Text to go on from.")],
    home: HomeOption = None,
    max_tokens: MaxTokens = 100,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    think: Annotated[
        str, typer.Option("--think", help="on opens a thought, off allows none, auto: as it likes.")
    ] = "auto",
    think_budget: Annotated[int, typer.Option("--think-budget", min=0, help="Tokens of a thought at most.")] = 128,
    show_thoughts: Annotated[bool, typer.Option("--show-thoughts", help="Print thoughts too, in brackets.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Continue a text."""
    from agent_forge.model.generation import generate_tokens, spoken

    if think not in _THINK:
        raise typer.BadParameter(f"{think!r} is not one of {', '.join(_THINK)}", param_hint="--think")
    network, tokenizer = _load(model, home)
    ids = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids += tokenizer.encode(prompt, add_special_tokens=False)
    start = time.perf_counter()
    tokens = list[int]()
    words = {"said": "", "thought": ""}
    stream = generate_tokens(
        network, tokenizer, ids, max_tokens=max_tokens, temperature=temperature, seed=seed,
        think=_THINK[think], thought_budget=think_budget,
    )  # fmt: skip
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
