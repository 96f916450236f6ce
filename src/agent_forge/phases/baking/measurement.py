"""What phase 6 measures: tools, persona, divergence and ordinary text, always without a prompt unless it says so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.calls import parse_call
from agent_forge.agent.runtime import converse_all
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Exchange, Persona, exchanges
from agent_forge.optim.prompt_baking import Pair, Targets, mean_divergence, targets_of
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.persona_cycle import (
    Choice,
    choices,
    choices_of_answers,
    preferred,
    style_statistics,
    with_histories,
)
from agent_forge.phases.baking.trajectories import Prompt, grouped, sample_trajectories

TURNS = 10


@dataclass(frozen=True)
class ToolScores:
    """What became of some questions.

    Attributes:
        asked: the questions.
        transcripts: what the model did.
        well_formed: a first call that the tool accepted, for each question that needs a tool.
        right_tool: a first call of the right tool, for the same.
        right: the right words in the last answer, for each question; without calls where none is needed.
        no_call: no call, for each question that needs none.
    """

    asked: list[Exchange]
    transcripts: list[Transcript]
    well_formed: list[bool]
    right_tool: list[bool]
    right: list[bool]
    no_call: list[bool]

    def figures(self) -> dict[str, float]:
        """Shares by name; one that nothing was asked for is left out."""
        needing = [ok for ok, exchange in zip(self.right, self.asked, strict=True) if exchange.steps]
        rows = {
            "tools_well_formed": self.well_formed,
            "tools_right_tool": self.right_tool,
            "tools_right_answer": needing,
            "no_call_when_none_needed": self.no_call,
        }
        for name in sorted({exchange.tool for exchange in self.asked} - {"none"}):
            pairs = zip(self.right, self.asked, strict=True)
            rows[f"tool/{name}"] = [ok for ok, exchange in pairs if exchange.tool == name]
        return {name: sum(values) / len(values) for name, values in rows.items() if values}


def ask_tools(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox,
    asked: Sequence[Exchange],
    *,
    answer_tokens: int,
    prompted: bool = False,
    reference: Toolbox | None = None,
) -> ToolScores:
    """Asks each question once, with greedy decoding; calls are carried out.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        toolbox: what it may call.
        asked: the questions; those that the index cannot answer are left out.
        answer_tokens: tokens of a turn.
        prompted: whether the list of tools is in context.
        reference: tools that decide what is right; None = ``toolbox``. With more tools than that, questions to a tool
            that is missing still count, as wrong.
    """
    judge = toolbox if reference is None else reference
    known = [(exchange, core) for exchange in asked if (core := expected(exchange, judge)) is not None]
    questions = [exchange for exchange, _ in known]
    found = converse_all(
        model, tokenizer, toolbox, [e.ask for e in questions], max_tokens=answer_tokens, prompted=prompted
    )
    well_formed, right_tool, right, no_call = [], [], [], []
    for (exchange, core), transcript in zip(known, found, strict=True):
        results = [turn for turn in transcript.turns if turn.kind == "result"]
        holds = says(transcript.answer, core)
        if exchange.steps:
            first = parse_call(transcript.calls[0]) if transcript.calls else None
            well_formed.append(bool(results) and bool(results[0].ok))
            right_tool.append(first is not None and first.name == exchange.tool)
            right.append(holds and bool(results))
        else:
            no_call.append(not transcript.calls)
            right.append(holds and not transcript.calls)
    return ToolScores(questions, found, well_formed, right_tool, right, no_call)


def expected(exchange: Exchange, toolbox: Toolbox) -> str | None:
    """The words of a right answer with this toolbox; None where its index cannot answer the question."""
    for call, result in exchange.steps:
        parsed = parse_call(call)
        if parsed is None or parsed.name not in toolbox:
            return None
        told = toolbox.call(parsed)
        if not told.ok or (told.text != result and len(exchange.steps) > 1):
            return None
        if told.text != result:
            return told.text
    return exchange.core


def says(answer: str, core: str) -> bool:
    """Whether an answer holds these words as whole words, in any case; −10 is not 10."""
    return re.search(rf"(?<![\w-]){re.escape(core)}(?!\w)", answer, re.IGNORECASE) is not None


def questions_about(
    worlds: Sequence[tuple[int, Toolbox]], levels: Sequence[int], tools: Sequence[str], split: Split, count: int
) -> list[tuple[Toolbox, list[Exchange]]]:
    """Questions of a split about the people of each world, evenly; one in four at least needs no tool."""
    made = []
    for world, toolbox in worlds:
        wanted = -(-count // len(worlds))
        idle = max(1, wanted // 4)
        mixed = islice(exchanges(97, levels, split, world=world, tools=tools), wanted - idle)
        made.append((toolbox, [*mixed, *islice(exchanges(91, levels, split, world=world, tools=()), idle)]))
    return made


@dataclass(frozen=True)
class Baseline:
    """The model before anything is baked, with and without its prompts.

    Attributes:
        pairs: conversations of the prompted model on held-out questions.
        targets: what it expects there.
        divergence: KL(prompted ‖ unprompted) of this model, in nats.
        figures: its tools and its style, with and without prompts.
        choices: forced choices about its persona.
    """

    pairs: list[Pair]
    targets: list[Targets]
    divergence: float
    figures: dict[str, float]
    choices: list[Choice]


def baseline(
    config: BakingConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    asked: tuple[Toolbox, list[Exchange]],
    split: Split,
    *,
    told: bool = True,
) -> Baseline:
    """Measures what the prompts do to a model that nothing was baked into, on held-out questions.

    ``told`` says whether the list of tools is one of the prompts.
    """
    toolbox, questions = asked
    few = questions[: config.selection_questions]
    line = toolbox.prompt() if told and len(toolbox) else ""
    said = {}
    for name, given in (("prompted", Prompt(prompt, line)), ("unprompted", Prompt())):
        said[name] = sample_trajectories(
            model,
            tokenizer,
            toolbox,
            grouped(few, 2),
            given,
            temperature=0.0,
            generator=torch.Generator(),
            max_tokens=config.answer_tokens,
        )
    pairs = [pair for trajectory in said["prompted"] for pair in trajectory.pairs()]
    targets = targets_of(model, pairs, top_k=0)
    figures: dict[str, float] = {}
    for name, found in said.items():
        answers = [answer for trajectory in found for answer in trajectory.answers]
        rows = [(e, a) for t in found for e, a in zip(t.asked, t.answers, strict=False) if e.steps]
        right = [says(answer, core) for e, answer in rows if (core := expected(e, toolbox)) is not None]
        figures[f"{name}/tools_right_answer"] = sum(right) / max(1, len(right))
        figures |= {f"{name}/{key}": value for key, value in style_statistics(prompt, answers).items()}
    idle = list(islice(exchanges(89, config.levels, split, tools=()), config.selection_questions))
    return Baseline(
        pairs, targets, mean_divergence(model, pairs, targets), figures,
        persona_choices(config, model, tokenizer, prompt, idle),
    )  # fmt: skip


def persona_choices(
    config: BakingConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    idle: Sequence[Exchange],
) -> list[Choice]:
    """Forced choices: exact ones where the persona allows them, else what this model says with and without it."""
    if Persona.of(prompt) is not None:
        return choices(prompt, idle, 5)
    said = []
    for told in (Prompt(prompt), Prompt()):
        found = sample_trajectories(
            model, tokenizer, Toolbox([]), [[exchange] for exchange in idle], told,
            temperature=0.0, generator=torch.Generator(), max_tokens=config.answer_tokens,
        )  # fmt: skip
        said.append([" ".join(trajectory.answers) for trajectory in found])
    return choices_of_answers(idle, *said)


def persona_figures(
    config: BakingConfig,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    made: Sequence[Choice],
    split: Split,
) -> dict[str, float]:
    """Preference without a history, in both orders of a history, and after ten turns; and how ten turns look."""
    if not made:
        return {}
    share = [preferred(model, tokenizer, made)]
    orders = [preferred(model, tokenizer, with_histories(made, made[::-1], swapped=s)) for s in (False, True)]
    figures = {
        "persona_preference": sum(share[0]) / len(made),
        "persona_preference_both_orders": sum(a and b for a, b in zip(*orders, strict=True)) / len(made),
    }
    source = exchanges(83, config.levels, split, tools=())
    talks = [list(islice(source, TURNS)) for _ in range(config.stability_conversations)]
    had = sample_trajectories(
        model, tokenizer, Toolbox([]), talks, Prompt(),
        temperature=0.0, generator=torch.Generator(), max_tokens=config.answer_tokens,
    )  # fmt: skip
    late = []
    for number, trajectory in enumerate(had):
        last = made[number % len(made)]
        earlier = zip(trajectory.asked[: TURNS - 1], trajectory.answers, strict=False)
        history = [turn for e, answer in earlier for turn in (("user", e.ask), ("assistant", answer))]
        late.append(Choice((*history, *last.messages), last.consistent, last.inconsistent))
    kept = preferred(model, tokenizer, late)
    figures["persona_preference_after_10_turns"] = sum(kept) / len(kept)
    tenth = [trajectory.answers[-1] for trajectory in had if len(trajectory.answers) == TURNS]
    figures |= {f"turn_10/{key}": value for key, value in style_statistics(prompt, tenth).items()}
    return figures


def recovered(baked: float, prompted: float, unprompted: float) -> float | None:
    """Share of what the prompt gains that the baked model has without it; None where that is under two points."""
    gain = prompted - unprompted
    return None if gain < 0.02 else (baked - unprompted) / gain


def shown(scores: Sequence[ToolScores], count: int = 10) -> list[dict[str, Any]]:
    """Dialogues for the report, as they came, tools in turn: nothing is picked for being right."""
    rows = [
        {"question": e.ask, "tool": e.tool, "right": ok, **transcript.to_json()}
        for score in scores
        for e, transcript, ok in zip(score.asked, score.transcripts, score.right, strict=True)
    ]
    by_tool: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        # Seconds differ from run to run; what is attached does not.
        row["turns"] = [{key: value for key, value in turn.items() if key != "seconds"} for turn in row["turns"]]
        by_tool.setdefault(str(row["tool"]), []).append(row)
    turns = [group[place] for place in range(count) for group in by_tool.values() if place < len(group)]
    return turns[:count]


def merged(scores: Sequence[ToolScores]) -> ToolScores:
    """The scores of several worlds as one."""
    fields = ("asked", "transcripts", "well_formed", "right_tool", "right", "no_call")
    return ToolScores(*[[row for score in scores for row in getattr(score, name)] for name in fields])


def prefixed(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures under the names that gates read."""
    return {f"baking/{name}": float(value) for name, value in figures.items()}
