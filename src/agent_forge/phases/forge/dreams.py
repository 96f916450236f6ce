"""Dream cycles between stages: replay of earlier levels by the model itself.

Idea: generative replay (Shin et al. 2017, "Continual Learning with Deep Generative Replay", arXiv:1705.08690). Its
danger is training on one's own mistakes (Shumailov et al. 2023, arXiv:2305.17493; premortem PR5), so a dream is held
on three anchors: a program verifies it, at least half of what is trained on is real, and a divergence holds the model
near the one that went to sleep.

    loss = CE(model, text) + κ · KL(model before the dream ‖ model), on dreams and real text alike

What we do differently:
1. A dream answers a question of an earlier level at temperature 1.2; it is kept if answer and steps verify and its
   perplexity under the model before the dream lies in a band: below it there is nothing to learn, above it is
   accident.
2. Accuracy on earlier levels is measured before and after. Where it fell by more than a tolerance, the dream is
   undone and dreams become half as frequent.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents
from agent_forge.evaluation.bits_per_byte import window_nats
from agent_forge.evaluation.tasks import prompt_ids
from agent_forge.model.ternary import freeze
from agent_forge.phases.forge.own_answers import own_answers
from agent_forge.phases.forge.questions import Question

TEMPERATURE = 1.2
REAL_FRACTION = 0.5
"""The least share of real text in what a dream trains on."""


@dataclass(frozen=True)
class Dreams:
    """What was dreamt.

    Attributes:
        kept: conversations that passed both filters.
        asked: questions.
        verified: dreams that the checker passed.
    """

    kept: list[Document]
    asked: int
    verified: int


@dataclass(frozen=True)
class Rhythm:
    """How often there are dreams.

    Attributes:
        every: stages between two dreams; 0 = never.
        undone: dreams that cost more than they gave.
    """

    every: int
    undone: int = 0

    def due(self, stage: int) -> bool:
        """Whether a dream follows stage number ``stage`` (from 0)."""
        return self.every > 0 and (stage + 1) % self.every == 0

    def after(self, before: float, now: float, tolerance: float) -> Rhythm:
        """Half as often where accuracy on earlier levels fell by more than ``tolerance`` (0–1)."""
        if now >= before - tolerance:
            return self
        return replace(self, every=2 * self.every, undone=self.undone + 1)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"every": self.every, "undone": self.undone}


def dream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    *,
    band: tuple[float, float],
    max_tokens: int,
    seed: int,
    temperature: float = TEMPERATURE,
) -> Dreams:
    """Answers at high temperature, verified and within a band of perplexity.

    Args:
        model: before the dream, in evaluation mode.
        tokenizer: its tokenizer.
        questions: of earlier levels, training split.
        band: smallest and largest perplexity per token of the answer.
        max_tokens: of an answer.
        seed: of the draws.
        temperature: of the answers.
    """
    if not questions:
        return Dreams([], 0, 0)
    prompts = prompt_ids(tokenizer, [question.task.prompt for question in questions])
    found = own_answers(model, tokenizer, questions, temperature=temperature, max_tokens=max_tokens, seed=seed)
    right = [(prompt, document) for prompt, document in zip(prompts, found, strict=True) if document is not None]
    values = answer_perplexities(model, tokenizer, right)
    kept = [document for (_, document), value in zip(right, values, strict=True) if band[0] <= value <= band[1]]
    return Dreams(kept, len(questions), len(right))


def answer_perplexities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, answered: Sequence[tuple[list[int], Document]]
) -> list[float]:
    """Perplexity per token of each answer, its end included.

    Args:
        model: who judges.
        tokenizer: its tokenizer.
        answered: the question's tokens, and the conversation.
    """
    encoded = list(encode_documents(tokenizer, [document for _, document in answered]))
    lengths = [len(each.ids) - len(prompt) for (prompt, _), each in zip(answered, encoded, strict=True)]
    windows = [(n, each.ids, max(1, lengths[n])) for n, each in enumerate(encoded)]
    found = dict(window_nats(model, windows))
    return [math.exp(min(found[n] / max(1, lengths[n]), 50.0)) for n in range(len(encoded))]


def anchored_loss(
    logits: Tensor, reference: Tensor, labels: Tensor, *, divergence_weight: float
) -> tuple[Tensor, float]:
    """Cross-entropy on what is labelled, and the divergence from the model before the dream.

    Args:
        logits: [N, V] of the model.
        reference: [N, V] of the model before the dream.
        labels: [N].
        divergence_weight: κ.

    Returns:
        The loss in nats, and the divergence as a number.
    """
    divergence = F.kl_div(
        F.log_softmax(logits, -1), F.log_softmax(reference, -1), reduction="batchmean", log_target=True
    )
    return F.cross_entropy(logits, labels) + divergence_weight * divergence, float(divergence.detach())


def share_of_dreams(num_dreams: int, num_real: int) -> float:
    """The dreams' share of the rows trained on: their share of the documents, at most half.

    Raises:
        ValueError: there is nothing real to mix in.
    """
    if num_real < 1:
        raise ValueError("a dream without real text to hold on to is refused")
    return min(1 - REAL_FRACTION, num_dreams / (num_dreams + num_real))


def copy_of(model: PreTrainedModel) -> PreTrainedModel:
    """The model before the dream: frozen, apart from the one that is trained."""
    before = copy.deepcopy(model).eval()
    for parameter in before.parameters():
        parameter.grad = None
    freeze(before)
    before.requires_grad_(False)
    return before
