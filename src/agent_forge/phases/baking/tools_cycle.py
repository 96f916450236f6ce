"""A-cycle: the list of tools goes into the weights.

Paper: Bhargava et al. 2024 (arXiv:2409.13697, sections 3 and 5): the teacher is the model as it stands, with the
prompt; asked anew in every round this is prompt pursuit.

What we do differently:
1. A model that cannot follow the list of tools yet is taught to first (`practice_loss`): supervised dialogues with
   the list in context. That is practice, and it is counted and measured apart from what baking does.
2. In practice only the model's own words count, and ordinary text is mixed in with all of its words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from agent_forge.agent.kinds import world_toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, pack, whole
from agent_forge.data.practice_dialogues import Exchange, Persona, exchanges, practice
from agent_forge.data.thought_habit import habit, with_habit
from agent_forge.model.forward import logits_and_hidden, on_device
from agent_forge.optim.precision import training_precision
from agent_forge.optim.prompt_baking import Pair, Targets, baking_loss, targets_of
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.course import Course, Loss
from agent_forge.phases.baking.trajectories import Prompt, anchors, grouped, knowledge_of, sample_trajectories

# Average tokens of a practice dialogue; only decides how many are made.
_DIALOGUE_TOKENS = 90
_TEXTS = 2000


def practice_loss(
    config: BakingConfig,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    tools: Sequence[str],
    not_persona: Persona | None,
    seed: int,
    habits: Mapping[str, Any] | None = None,
) -> Callable[[], Loss]:
    """Supervised practice in following prompts: cross-entropy on the model's own words and on ordinary text.

    ``habits`` is the fact ``practice`` of a checkpoint that thinks: worked thoughts are among the practice then.
    """

    def prepare() -> Loss:
        batches = practice_batches(config, tokenizer, corpus, tools, not_persona, seed, habits)
        device = next(model.parameters()).device
        autocast = training_precision(config.precision, str(device))

        def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
            batch = on_device(device, batches.batch(step))
            logits, _ = logits_and_hidden(model, batch, autocast)
            wanted = batch["labels"][:, 1:].flatten()
            total = F.cross_entropy(logits[:, :-1].flatten(0, 1), wanted, reduction="sum")
            # a batch of short windows may hold nobody's words but the user's
            return total / (wanted >= 0).sum().clamp(min=1), {}

        return loss_of

    return prepare


def practice_batches(
    config: BakingConfig,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    tools: Sequence[str],
    not_persona: Persona | None,
    seed: int,
    habits: Mapping[str, Any] | None = None,
) -> Batches:
    """What `practice_loss` reads: dialogues from the answers on, ordinary text whole, worked thoughts if there are."""
    tokens = config.practice_steps * config.practice_batch * config.sequence_length * (1 - config.text_fraction)
    count = max(64, round(tokens / _DIALOGUE_TOKENS))
    documents = islice(practice(seed, config.levels, tools=tools, not_persona=not_persona), count)
    shards = {"practice": pack(documents, tokenizer)}
    weights = {"practice": 1 - config.text_fraction}
    for domain, weight in corpus.mixture().items():
        if config.text_fraction:
            shards[f"text/{domain}"] = whole(pack(corpus.documents(domain, "train")[:_TEXTS], tokenizer))
            weights[f"text/{domain}"] = config.text_fraction * weight
    shards, weights = with_habit(shards, weights, habit(tokenizer, habits))
    return Batches(
        shards,
        weights,
        sequence_length=config.sequence_length,
        batch_size=config.practice_batch,
        seed=seed,
        mask_prompts=True,
        pad_id=tokenizer.pad_token_id or 0,
    )


def bake_prompt(
    config: BakingConfig,
    course: Course,
    corpus: Corpus,
    prompt: Prompt,
    asked: Callable[[], list[Exchange]],
    name: str,
    *,
    tools: Sequence[str],
    steps: int,
    strength: float,
    whole: bool = False,
) -> None:
    """One cycle: trajectories and expectations of the prompted model as it stands, then a student without the prompt.

    Args:
        config: of the phase.
        course: runs the segment.
        corpus: for anchors.
        prompt: what is baked.
        asked: questions for the trajectories.
        name: of the segment.
        tools: that the teacher may call; what they look up is what the questions are about.
        steps: of training.
        strength: share of the change that is kept.
        whole: trains the weights themselves even where an adapter is configured.
    """
    student, context = course.student, course.context
    model, tokenizer = student.model, student.tokenizer

    def prepare() -> Loss:
        questions = asked()
        sampled = sample_trajectories(
            model,
            tokenizer,
            world_toolbox(knowledge_of(questions)).only(tools),
            grouped(questions, config.max_questions),
            prompt,
            temperature=config.temperature,
            generator=context.generator(f"baking/{name}/sampling"),
            max_tokens=config.answer_tokens,
        )
        pairs = [pair for trajectory in sampled for pair in trajectory.pairs()]
        still = (
            anchors(corpus, tokenizer, 8 * config.batch_size, config.anchor_tokens, context.generator(f"{name}/text"))
            if config.anchor_batch
            else []
        )
        return mixed_loss(
            config,
            model,
            (pairs, targets_of(model, pairs, top_k=config.top_k)),
            (still, targets_of(model, still, top_k=config.top_k)),
        )

    rate = config.baking_learning_rate
    course.segment(name, steps, prepare, learning_rate=rate, strength=strength, whole=whole)


def mixed_loss(
    config: BakingConfig,
    model: nn.Module,
    baked: tuple[Sequence[Pair], Sequence[Targets]],
    still: tuple[Sequence[Pair], Sequence[Targets]],
) -> Loss:
    """Divergence on conversations plus divergence on ordinary text; the batch follows from the step alone."""

    autocast = training_precision(config.precision, str(next(model.parameters()).device))

    def loss_of(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen = _places(len(baked[0]), config.batch_size, step)
        loss = baking_loss(model, [baked[0][n] for n in chosen], [baked[1][n] for n in chosen], autocast=autocast)
        figures = {"baking/divergence": float(loss.detach())}
        if still[0] and config.anchor_batch and config.anchor_weight:
            chosen = _places(len(still[0]), config.anchor_batch, step)
            anchor = baking_loss(model, [still[0][n] for n in chosen], [still[1][n] for n in chosen], autocast=autocast)
            figures["baking/anchor"] = float(anchor.detach())
            loss = loss + config.anchor_weight * anchor
        return loss, figures

    return loss_of


def tools_cycle(
    config: BakingConfig, course: Course, corpus: Corpus, tools: Sequence[str], told: bool, number: int
) -> None:
    """Bakes the list of tools, on questions about people who are new in every round.

    Without ``told`` there is nothing to bake: the model does as well without the list.
    """
    bake_prompt(
        config,
        course,
        corpus,
        Prompt(tools=tools_prompt(tools)),
        lambda: fresh_questions(config, course.context.seed + 101 * (number + 1), tools),
        f"tools {number}",
        tools=tools,
        steps=config.tools_steps if tools and told else 0,
        strength=config.strength,
    )


def joint_cycle(
    config: BakingConfig, course: Course, corpus: Corpus, tools: Sequence[str], persona: str, told: bool
) -> None:
    """Bakes both prompts together at full strength, the last training before the weights are rounded for good."""
    bake_prompt(
        config,
        course,
        corpus,
        Prompt(persona, tools_prompt(tools) if told else ""),
        lambda: fresh_questions(config, course.context.seed + 107, tools),
        "recovery",
        tools=tools,
        steps=config.recovery_steps,
        strength=1.0,
        whole=True,
    )


def tools_prompt(tools: Sequence[str]) -> str:
    """The line that lists these tools; empty without any."""
    return world_toolbox(knowledge_of([])).only(tools).prompt() if tools else ""


def fresh_questions(config: BakingConfig, seed: int, tools: Sequence[str]) -> list[Exchange]:
    """Questions of the training split for one cycle, each about people of a world of its own."""
    source = exchanges(seed, config.levels, "train", tools=tools)
    return list(islice(source, config.trajectories * (1 + config.max_questions) // 2))


def _places(count: int, size: int, step: int) -> list[int]:
    """Pairs of a step: all of them in turn."""
    return [(step * size + n) % count for n in range(min(size, count))]
