"""Which tokens may come next while a model thinks, or does not: one rule for one prompt and for batches.

Inside a thought no second one opens and the text cannot end; when the budget is spent only ``</think>`` may follow.
Outside, nothing can be closed; where thinking is off nothing is opened.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedTokenizerBase

from agent_forge.contract import END_THINK, THINK
from agent_forge.data.tokenizer import has_thoughts, thought_ids

Think: TypeAlias = bool | Literal["auto"]
"""True: a thought is opened for the model; False: it may not think; "auto": as it likes."""

THOUGHT_BUDGET = 128
"""Tokens of a thought at most, where nothing else is said."""


class ThoughtRule(LogitsProcessor):
    """Masks the logits of the next tokens.

    Args:
        opening: id of ``<think>``.
        closing: id of ``</think>``.
        stop: tokens that end the text.
        think: see `Think`.
        budget: tokens between the marks at most.

    Raises:
        ValueError: the budget is negative.
    """

    def __init__(self, opening: int, closing: int, stop: Collection[int], think: Think, budget: int) -> None:
        if budget < 0:
            raise ValueError(f"thought_budget {budget} must be at least 0")
        self.opening, self.closing, self.stop = opening, closing, sorted(stop)
        self.think, self.budget = think, budget

    def prefix(self) -> list[int]:
        """What is put in front of the model's words."""
        return [self.opening] if self.think is True else []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, vocab] for what follows ``input_ids`` [B, T], prompt included; a new tensor."""
        length = input_ids.shape[1]
        place = torch.arange(1, length + 1, device=input_ids.device)
        opened = torch.where(input_ids == self.opening, place, 0).amax(1)
        closed = torch.where(input_ids == self.closing, place, 0).amax(1)
        thinking = opened > closed
        scores = scores.clone()
        minus = float("-inf")
        scores[:, self.closing] = scores[:, self.closing].masked_fill(~thinking, minus)
        hidden = thinking if self.think is not False else torch.ones_like(thinking)
        scores[:, self.opening] = scores[:, self.opening].masked_fill(hidden, minus)
        for token in self.stop:
            scores[:, token] = scores[:, token].masked_fill(thinking, minus)
        spent = thinking & (length - opened >= self.budget)
        scores = scores.masked_fill(spent[:, None], minus)
        scores[:, self.closing] = scores[:, self.closing].masked_fill(spent, 0.0)
        return scores


def thought_rule(
    tokenizer: PreTrainedTokenizerBase | None, stop: Collection[int], think: Think, budget: int
) -> ThoughtRule | None:
    """The rule for this tokenizer; None if it has no thought tokens.

    Raises:
        ValueError: ``think`` is none of True, False and "auto", or True for a model without thought tokens.
    """
    if think not in (True, False, "auto"):
        raise ValueError(f'think is {think!r}, expected True, False or "auto"')
    if tokenizer is not None and has_thoughts(tokenizer):
        return ThoughtRule(*thought_ids(tokenizer), stop, think, budget)
    if think is True:
        raise ValueError(f"this model has no {THINK} and {END_THINK}: it was not taught to think (phase quietstar)")
    return None
