"""How coherent a thought is, in [0, 1], from the model's own numbers; what is below a bound is not injected.

Ours; the specification asks for a measured figure and leaves open how. With p the model's probability and the mean
taken per token (geometric means, so that a length of a thought does not matter):

    fluency     = p(thought | question)            is it something that the model would say?
    relevance   = 1 − p(thought | no question) / p(thought | question), at least 0      does it depend on the question?
    consistency = p(what was said | question, thought)             does the model stand by what followed?
    coherence   = ∛(fluency · relevance · consistency)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.tokenizer import thought_ids
from agent_forge.evaluation.bits_per_byte import window_nats
from agent_forge.evaluation.tasks import prompt_ids


@dataclass(frozen=True)
class Coherence:
    """Figures of N thoughts, float64 [N] in [0, 1]."""

    fluency: np.ndarray
    relevance: np.ndarray
    consistency: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """The cube root of their product."""
        return np.cbrt(self.fluency * self.relevance * self.consistency)


@torch.inference_mode()
def coherence(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    thoughts: Sequence[Sequence[int]],
    said: Sequence[Sequence[int]],
    *,
    batch_tokens: int = 8192,
) -> Coherence:
    """Measures thoughts.

    Args:
        model: whose thoughts they are.
        tokenizer: with thought tokens.
        prompts: tokens up to where the model speaks.
        thoughts: tokens between the marks; an empty thought has fluency 1 and relevance 0.
        said: tokens of the answers.
        batch_tokens: tokens in a batch at most.
    """
    opening, closing = thought_ids(tokenizer)
    (nobody,) = prompt_ids(tokenizer, [""])
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    windows: list[tuple[int, list[int], int]] = []
    for number, (prompt, thought, words) in enumerate(zip(prompts, thoughts, said, strict=True)):
        inner, spoken = [*thought, closing], [*words, *end]
        windows.append((3 * number, [*prompt, opening, *inner], len(inner)))
        windows.append((3 * number + 1, [*nobody, opening, *inner], len(inner)))
        windows.append((3 * number + 2, [*prompt, opening, *inner, *spoken], len(spoken)))
    nats = np.zeros(3 * len(prompts))
    for number, found in window_nats(model, [each for each in windows if each[2]], batch_tokens=batch_tokens):
        nats[number] = found
    counts = np.asarray([max(1, scored) for _, _, scored in windows], float)
    likely = np.exp(-nats / counts).reshape(-1, 3)
    empty = np.asarray([len(thought) == 0 for thought in thoughts], bool)
    relevance = np.clip(1 - likely[:, 1] / np.maximum(likely[:, 0], 1e-12), 0, 1)
    return Coherence(
        fluency=np.where(empty, 1.0, likely[:, 0]),
        relevance=np.where(empty, 0.0, relevance),
        consistency=likely[:, 2],
    )
