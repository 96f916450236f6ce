"""Continuation of many prompts at once, greedy or drawn: prompts of like length together, padded on the left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model.row_generation import generate_rows
from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think


def generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    batch_tokens: int = 8192,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
    stop_ids: Collection[int] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """The likeliest tokens after each prompt, or a draw.

    Args:
        model: any causal language model of transformers with a cache whose rows can be selected.
        tokenizer: asked for its end and padding tokens.
        prompts: token ids, at least one each.
        max_tokens: tokens of a continuation at most, thoughts and their marks included.
        batch_tokens: tokens in a batch at most, continuation and padding included.
        think, thought_budget: as in `generate_tokens`.
        stop_ids: tokens that end a continuation; None = the tokenizer's end token.
        temperature: 0 = always the likeliest token.
        seed: of the draws: each prompt has its own, in their order.

    Returns:
        For each prompt the tokens before the one that ended it, which is left out.

    Raises:
        ValueError: ``think`` is True and the tokenizer has no thought tokens.
    """
    longest = max(map(len, prompts), default=0)
    return generate_rows(
        model, tokenizer, prompts, max_tokens, seeds=range(seed, seed + len(prompts)), temperature=temperature,
        think=think, thought_budget=thought_budget, stop_ids=stop_ids,
        batch_rows=max(1, batch_tokens // (longest + max_tokens)),
    )  # fmt: skip
