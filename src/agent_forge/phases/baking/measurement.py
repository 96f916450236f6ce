"""What phase 6 measures: tools, persona, divergence and ordinary text, always without a prompt unless it says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.persona import (
    Choice,
    choices,
    choices_of_answers,
    preferred,
    style_statistics,
    with_histories,
)
from agent_forge.agent.tool_exam import expected, says
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Exchange, Persona, exchanges
from agent_forge.optim.prompt_baking import Pair, Targets, mean_divergence, targets_of
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.trajectories import Prompt, grouped, sample_trajectories

TURNS = 10


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


def prefixed(figures: Mapping[str, float]) -> dict[str, float]:
    """Figures under the names that gates read."""
    return {f"baking/{name}": float(value) for name, value in figures.items()}
