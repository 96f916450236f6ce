"""Greedy continuation of many prompts at once: prompts of like length together, padded on the left."""

from __future__ import annotations

from collections.abc import Sequence

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
) -> list[list[int]]:
    """The likeliest tokens after each prompt.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: asked for its end and padding tokens.
        prompts: token ids, at least one each.
        max_tokens: tokens of a continuation at most, thoughts and their marks included.
        batch_tokens: tokens in a batch at most, continuation and padding included.
        think, thought_budget: as in `generate_tokens`.

    Returns:
        For each prompt the tokens before the end token, which is left out.

    Raises:
        ValueError: ``think`` is True and the tokenizer has no thought tokens.
    """
    rule = thought_rule(
        tokenizer, [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id], think, thought_budget
    )
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
        eos_token_id=tokenizer.eos_token_id,
    )
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]])
        rows = order[at : at + max(1, batch_tokens // (longest + max_tokens))]
        at += len(rows)
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, n in enumerate(rows):
            ids[place, longest - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[place, longest - len(prompts[n]) :] = 1
        found = model.generate(  # type: ignore[operator]
            ids.to(device), attention_mask=mask.to(device), generation_config=settings, logits_processor=rules
        )
        for n, row in zip(rows, found[:, longest:].tolist(), strict=True):
            said[n] = [*given, *_until(row, tokenizer.eos_token_id)]
    return said


def _until(ids: list[int], stop: int | None) -> list[int]:
    return ids[: ids.index(stop)] if stop in ids else ids
