"""B-cycle: a persona goes into the weights. What shows that it is there: `agent_forge.agent.persona`.

Paper: Bhargava et al. 2024 (arXiv:2409.13697, section 3).

What we do differently:
1. The persona may be proposed by the model: of several it takes the one whose prompt changes its own answers least.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.kinds import world_toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.practice_dialogues import exchanges, persona
from agent_forge.data.synthetic_world.words import stream
from agent_forge.optim.prompt_baking import mean_divergence, targets_of
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.course import Course
from agent_forge.phases.baking.tools_cycle import bake_prompt, fresh_questions
from agent_forge.phases.baking.trajectories import Prompt, knowledge_of, sample_trajectories

_CANDIDATES = 6
_ASKED_FOR_PROPOSAL = 8


def persona_cycle(
    config: BakingConfig, course: Course, corpus: Corpus, tools: Sequence[str], prompt: str, number: int
) -> None:
    """Bakes the persona, on questions with and without tools."""

    bake_prompt(
        config,
        course,
        corpus,
        Prompt(system=prompt),
        lambda: fresh_questions(config, course.context.seed + 103 * (number + 1), tools),
        f"persona {number}",
        tools=tools,
        steps=config.persona_steps,
        strength=config.strength,
    )


def propose_persona(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, levels: Sequence[int], seed: int, answer_tokens: int
) -> str:
    """The prompt, of several made up from words, under which the model's own answers change least."""
    rng = stream("proposed persona", seed)
    candidates = [persona(rng).prompt for _ in range(_CANDIDATES)]
    asked = list(islice(exchanges(seed + 7, levels, "train", tools=()), _ASKED_FOR_PROPOSAL))
    costs = []
    for prompt in candidates:
        own = sample_trajectories(
            model,
            tokenizer,
            world_toolbox(knowledge_of([])),
            [[exchange] for exchange in asked],
            Prompt(system=prompt),
            temperature=0.0,
            generator=torch.Generator(),
            max_tokens=answer_tokens,
        )
        pairs = [pair for trajectory in own for pair in trajectory.pairs()]
        costs.append(mean_divergence(model, pairs, targets_of(model, pairs, top_k=0)))
    return candidates[costs.index(min(costs))]
