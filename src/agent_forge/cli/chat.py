"""`chat`: a conversation with an agent; its tools run here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_forge.cli.options import HomeOption, home_path

ModelArgument = Annotated[
    str, typer.Argument(help="Checkpoint folder, .forge file, session, session/handoff, or artifact digest.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", min=1, help="Tokens at most.")]
Temperature = Annotated[float, typer.Option("--temperature", min=0.0, help="0 takes the likeliest token.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the sampling.")]
ThinkOption = Annotated[str, typer.Option("--think", help="on opens a thought, off allows none, auto: as it likes.")]
ThinkBudget = Annotated[int, typer.Option("--think-budget", min=0, help="Tokens of a thought at most.")]
NoDesign = Annotated[
    bool, typer.Option("--no-design", help="One attempt with these options, though the agent has a design of its own.")
]
ShowThoughts = Annotated[bool, typer.Option("--show-thoughts", help="Print thoughts too, in brackets.")]
_THINK: dict[str, Any] = {"auto": "auto", "on": True, "off": False}


def add_to(app: typer.Typer) -> None:
    """Registers the command."""
    app.command()(chat)


def chat(
    model: ModelArgument,
    home: HomeOption = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    think: ThinkOption = "auto",
    think_budget: ThinkBudget = 128,
    show_thoughts: ShowThoughts = False,
    no_design: NoDesign = False,
    no_tools: Annotated[bool, typer.Option("--no-tools", help="Run no tool: calls are printed as answers.")] = False,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Text files to look things up in (.txt, .md).")
    ] = None,
    retrieval: Annotated[
        str, typer.Option("--retrieval", help="How the folder is searched: bm25, embedding.")
    ] = "bm25",
    remember: Annotated[
        bool, typer.Option("--remember", help="Keep the conversation in mind; else each question stands alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each question.")] = False,
) -> None:
    """Talk to an agent, or to an ONNX export of one. An empty line or Ctrl-D ends the conversation."""
    from agent_forge.pipeline.talk import Talk

    options = decoding(max_tokens, temperature, seed, think, think_budget)
    talk = Talk.start(
        model, home_path(home), options,
        tools=not no_tools, folder=folder, retrieval=retrieval, designed=not no_design,
    )  # fmt: skip
    interactive = sys.stdin.isatty() and not as_json
    if interactive:
        if tools := talk.tools():
            typer.echo(f"Tools: {', '.join(f'{t.name} (disabled)' if t.disabled else t.name for t in tools)}.")
        typer.echo("Type a question; an empty line ends.")
    for question in _questions(interactive):
        if as_json:
            row = {"question": question} | talk.ask(question, remember=remember).to_json()
            typer.echo(json.dumps(row, ensure_ascii=False))
        else:
            show_answer(talk, question, remember=remember, show_thoughts=show_thoughts)


def decoding(max_tokens: int, temperature: float, seed: int, think: str, think_budget: int) -> dict[str, Any]:
    """The options of the decoding, as the model's room takes them."""
    if think not in _THINK:
        raise typer.BadParameter(f"{think!r} is not one of {', '.join(_THINK)}", param_hint="--think")
    return {
        "max_tokens": max_tokens, "temperature": temperature, "seed": seed,
        "think": _THINK[think], "thought_budget": think_budget,
    }  # fmt: skip


def _questions(interactive: bool) -> Iterator[str]:
    while True:
        try:
            line = input("you> ") if interactive else sys.stdin.readline()
        except EOFError:
            return
        if not line.strip():
            return
        yield line.strip()


def show_answer(talk: Any, question: str, *, remember: bool = False, show_thoughts: bool = False) -> None:
    """Asks, and prints the steps as they come: thoughts if wanted, calls, results, the answer."""
    from agent_forge.agent.runtime import Piece
    from agent_forge.agent.transcript import printable

    transcript, steps = talk.steps(question, remember=remember)
    begun = False
    for step in steps:
        if isinstance(step, Piece):
            if step.kind == "answer":
                typer.echo(printable(step.text if begun else step.text.lstrip()), nl=False)
                begun = True
        elif step.kind == "thought" and show_thoughts:
            typer.echo(f"[{printable(step.text)}]")
        elif step.kind == "call":
            typer.echo(f"→ {printable(step.text)}")
        elif step.kind == "result":
            typer.echo(f"← {'' if step.ok else 'error: '}{printable(step.text)}")
        elif step.kind == "answer":
            typer.echo("" if begun else printable(step.text))
    if transcript.stopped == "calls":
        typer.echo("(it asked for more calls than are allowed for one answer)")
