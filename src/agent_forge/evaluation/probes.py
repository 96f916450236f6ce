"""Probes of where a model can look: positions, long range, and key–value recall beyond the attention window.

All are made of tokens drawn at random, so that nothing but the context helps. Each asks for one of several values
that all occur in the context: chance is one over their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Recall:
    """Key–value recall.

    Attributes:
        accuracy: fraction of queries whose most likely candidate value is the right one, 0–1.
        exact: fraction whose most likely token of the whole vocabulary is the right one, 0–1.
        chance: accuracy of a guess.
        length: tokens before the query.
        queries: how many were asked.
    """

    accuracy: float
    exact: float
    chance: float
    length: int
    queries: int

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def key_value_batch(
    *, length: int, num_pairs: int, batch_size: int, vocabulary: tuple[int, int], generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sequences ``k1 v1 k2 v2 … filler … k_i``; the next token is v_i. Training and evaluation draw from here alike.

    A third of the vocabulary range are keys, a third values, the rest filler; keys of one sequence differ, and so do
    values.

    Args:
        length: tokens in a sequence, the query included.
        num_pairs: pairs at its beginning.
        batch_size: sequences.
        vocabulary: tokens to draw from, first and last + 1 (leave the special ones out).
        generator: of the draws.

    Returns:
        ids int64 [B, length] (the last one is the query's key), answers int64 [B], candidates int64 [B, num_pairs].

    Raises:
        ValueError: the pairs do not fit into the length or the vocabulary.
    """
    low, high = vocabulary
    third = (high - low) // 3
    if 2 * num_pairs + 1 > length or num_pairs > third or num_pairs < 1:
        raise ValueError(f"{num_pairs} pairs fit neither into {length} tokens nor into {third} keys, or are none")
    keys = _different(batch_size, num_pairs, third, generator) + low
    values = _different(batch_size, num_pairs, third, generator) + low + third
    filler = torch.randint(low + 2 * third, high, (batch_size, length), generator=generator)
    ids = filler
    ids[:, 0 : 2 * num_pairs : 2] = keys
    ids[:, 1 : 2 * num_pairs : 2] = values
    asked = torch.randint(0, num_pairs, (batch_size, 1), generator=generator)
    ids[:, -1] = keys.gather(1, asked)[:, 0]
    return ids, values.gather(1, asked)[:, 0], values


def _different(rows: int, count: int, among: int, generator: torch.Generator) -> torch.Tensor:
    """[rows, count] numbers below ``among``, different within a row."""
    return torch.rand(rows, among, generator=generator).argsort(dim=1, stable=True)[:, :count]


@torch.inference_mode()
def key_value_recall(
    model: PreTrainedModel,
    *,
    length: int,
    num_pairs: int = 8,
    queries: int = 64,
    vocabulary: tuple[int, int] | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> Recall:
    """Recall of one of ``num_pairs`` pairs that stand at the beginning of ``length`` tokens.

    Args:
        model: any causal language model.
        length: tokens, e.g. four times the attention window.
        num_pairs: pairs; chance is 1 / num_pairs.
        queries: sequences asked.
        vocabulary: tokens to draw from; None = the upper half of the model's vocabulary.
        seed: of the sequences.
        batch_size: sequences at once.
    """
    size = int(model.config.vocab_size)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    chosen, exact, asked = 0, 0, 0
    while asked < queries:
        ids, answers, candidates = key_value_batch(
            length=length,
            num_pairs=num_pairs,
            batch_size=min(batch_size, queries - asked),
            vocabulary=vocabulary or (size // 2, size),
            generator=generator,
        )
        logits = _last_logits(model, ids.to(device)).cpu()
        best = candidates.gather(1, logits.gather(1, candidates).argmax(1, keepdim=True))[:, 0]
        chosen += int((best == answers).sum())
        exact += int((logits.argmax(1) == answers).sum())
        asked += len(ids)
    return Recall(chosen / asked, exact / asked, 1 / num_pairs, length, asked)


def position_probe(
    model: PreTrainedModel, distances: Sequence[int] = (10, 100, 1000), *, queries: int = 32, seed: int = 0
) -> dict[int, float]:
    """Accuracy of recalling one of four values that stand ``distance`` tokens back; chance is 0.25.

    Args:
        model: any causal language model.
        distances: tokens between the pairs' beginning and the query.
        queries: sequences for each distance.
        seed: of the sequences.
    """
    return {
        distance: key_value_recall(model, length=distance + 1, num_pairs=4, queries=queries, seed=seed + n).accuracy
        for n, distance in enumerate(distances)
    }


def long_range_accuracy(model: PreTrainedModel, length: int = 2048, *, queries: int = 16, seed: int = 0) -> float:
    """Accuracy of recalling one of eight values from the beginning of ``length`` tokens; chance is 0.125."""
    return key_value_recall(model, length=length, num_pairs=8, queries=queries, seed=seed).accuracy


def _last_logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    was_training = model.training
    model.eval()
    try:
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[:, -1].float()
    finally:
        model.train(was_training)
    return logits
