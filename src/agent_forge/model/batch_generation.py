"""Greedy continuation of many prompts at once: prompts of like length together, padded on the left."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think, thought_rule


@torch.inference_mode()
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
) -> list[list[int]]:
    """The likeliest tokens after each prompt.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: asked for its end and padding tokens.
        prompts: token ids, at least one each.
        max_tokens: tokens of a continuation at most, thoughts and their marks included.
        batch_tokens: tokens in a batch at most, continuation and padding included.
        think, thought_budget: as in `generate_tokens`.
        stop_ids: tokens that end a continuation; None = the tokenizer's end token.

    Returns:
        For each prompt the tokens before the one that ended it, which is left out.

    Raises:
        ValueError: ``think`` is True and the tokenizer has no thought tokens.
    """
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    rule = thought_rule(tokenizer, end, think, thought_budget)
    stop = end if stop_ids is None else sorted(stop_ids)
    given = [] if rule is None else rule.prefix()
    prompts = [[*prompt, *given] for prompt in prompts]
    rules = LogitsProcessorList([] if rule is None else [rule])
    said: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    device = next(model.parameters()).device
    settings = GenerationConfig(
        max_new_tokens=max(1, max_tokens - len(given)),
        do_sample=False,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=stop or None,
    )
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]])
        rows = order[at : at + max(1, batch_tokens // (longest + max_tokens))]
        at += len(rows)
        ids, mask = _padded([prompts[n] for n in rows], longest, pad)
        found = model.generate(  # type: ignore[operator]
            ids.to(device), attention_mask=mask.to(device), generation_config=settings, logits_processor=rules
        )
        for n, row in zip(rows, found[:, longest:].tolist(), strict=True):
            said[n] = [*given, *_until(row, stop)]
    return said


def _padded(prompts: Sequence[Sequence[int]], length: int, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and mask [B, length], prompts at the right end."""
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros(len(prompts), length, dtype=torch.long)
    for place, prompt in enumerate(prompts):
        ids[place, length - len(prompt) :] = torch.tensor(prompt)
        mask[place, length - len(prompt) :] = 1
    return ids, mask


def _until(ids: list[int], stop: Collection[int]) -> list[int]:
    return ids[: next((place for place, token in enumerate(ids) if token in stop), len(ids))]
