"""Continuation of many prompts at once, greedy or drawn: prompts of like length together, padded on the left."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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
    temperature: float = 0.0,
    seed: int = 0,
) -> list[list[int]]:
    """The likeliest tokens after each prompt, or a draw.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: asked for its end and padding tokens.
        prompts: token ids, at least one each.
        max_tokens: tokens of a continuation at most, thoughts and their marks included.
        batch_tokens: tokens in a batch at most, continuation and padding included.
        think, thought_budget: as in `generate_tokens`.
        stop_ids: tokens that end a continuation; None = the tokenizer's end token.
        temperature: 0 = always the likeliest token.
        seed: of the draws; torch's own generator comes back as it was.

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
    drawn: dict[str, Any] = {"temperature": temperature, "top_k": 0} if temperature > 0 else {}
    settings = GenerationConfig(
        max_new_tokens=max(1, max_tokens - len(given)), do_sample=bool(drawn), use_cache=True, pad_token_id=pad,
        eos_token_id=stop or None, **drawn,
    )  # fmt: skip
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]])
        rows = order[at : at + max(1, batch_tokens // (longest + max_tokens))]
        at += len(rows)
        ids, mask = _padded([prompts[n] for n in rows], longest, pad)
        with _seeded(seed + at if drawn else None, device):
            found = model.generate(  # type: ignore[operator]
                ids.to(device), attention_mask=mask.to(device), generation_config=settings, logits_processor=rules
            )
        for n, row in zip(rows, found[:, longest:].tolist(), strict=True):
            said[n] = [*given, *_until(row, stop)]
    return said


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from a seed for as long as the block runs; None = nothing is drawn."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


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
