"""The habit of thinking: batches of worked thoughts and of ordinary text, and the loss that keeps the latter.

Supervised practice before Quiet-STaR proper, as Zelikman et al. 2022 (STaR, arXiv:2203.14465, section 3) start from
worked rationales; Hinton et al. 2015 (arXiv:1503.02531) for the KL that holds ordinary text.

    loss = CE(practice and ordinary text) + w · KL(before ‖ now, on ordinary text)

What we do differently from STaR:
1. Rationales come from programs and are right; nothing is filtered by its answer.
2. Some questions are answered at once, and some after filler of the same length, so that "without a thought" and
   "equal compute" are practised too: the controls of the gate are not strangers to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import Batches, TokenShard, enough, pack
from agent_forge.data.practice import worked_thoughts
from agent_forge.data.tokenizer import encode_texts, thought_ids
from agent_forge.model.forward import accepted, arithmetic


class HabitBatches:
    """Batch ``step`` = rows of practice, then rows of ordinary text: a pure function of (seed, step).

    Args:
        practice: questions with a thought, at once, and after filler.
        ordinary: text of the corpus.
    """

    def __init__(self, practice: Batches, ordinary: Batches) -> None:
        self.practice, self.ordinary = practice, ordinary

    def batch(self, step: int) -> dict[str, Tensor]:
        """``input_ids``, ``labels``, ``document_ids`` [B, T] and ``ordinary`` bool [B, T], padding left out."""
        parts = (self.practice.batch(step), self.ordinary.batch(step))
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        rows = parts[0]["input_ids"].shape[0]
        joined["ordinary"] = joined["document_ids"] >= 0
        joined["ordinary"][:rows] = False
        return joined


def habit_batches(
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
    *,
    strategies: Sequence[str],
    levels: Sequence[int],
    items: int,
    direct_fraction: float,
    filler_fraction: float,
    ordinary_fraction: float,
    sequence_length: int,
    batch_size: int,
    steps: int,
    seed: int,
) -> HabitBatches:
    """Packs the practice and the training split of the corpus.

    Args:
        corpus: an open corpus.
        tokenizer: with thought tokens.
        strategies, levels: of the practice.
        items: worked thoughts.
        direct_fraction, filler_fraction: shares of the practice that get no thought, or filler instead.
        ordinary_fraction: share of the rows that is ordinary text.
        sequence_length, batch_size: of a batch.
        steps: how many batches will be asked for; no more text is read than they need.
        seed: of the order, and of the practice.
    """
    worked = [item.document for item in islice(worked_thoughts(seed, "train", levels, strategies), items)]
    shares = {"worked": 1 - direct_fraction - filler_fraction, "direct": direct_fraction, "filler": filler_fraction}
    if shares["worked"] <= 0:
        raise ValueError(f"direct_fraction {direct_fraction} + filler_fraction {filler_fraction} leave no thoughts")
    shard = pack(worked, tokenizer)
    shards = {"worked": shard, "filler": with_filler(shard, tokenizer)}
    if direct_fraction:
        shards["direct"] = pack([document.without_thoughts() for document in worked], tokenizer)
    rows = min(batch_size - 1, max(1, round(batch_size * ordinary_fraction)))
    size: dict[str, Any] = {"sequence_length": sequence_length, "seed": seed, "pad_id": tokenizer.pad_token_id or 0}
    practice = Batches(
        shards, {n: s for n, s in shares.items() if s > 0}, batch_size=batch_size - rows, mask_prompts=True, **size
    )
    wanted = steps * rows * sequence_length
    texts = {
        domain: pack(enough(corpus.documents(domain, "train"), wanted * share), tokenizer)
        for domain, share in corpus.mixture().items()
    }
    return HabitBatches(practice, Batches(texts, corpus.mixture(), batch_size=rows, **size))


def with_filler(shard: TokenShard, tokenizer: PreTrainedTokenizerBase) -> TokenShard:
    """The same documents with every token between the marks replaced by filler."""
    opening, closing = thought_ids(tokenizer)
    tokens = np.array(shard.tokens)
    opens, closes = tokens == opening, tokens == closing
    inside = (np.cumsum(opens) - np.cumsum(closes) > 0) & ~opens
    tokens[inside] = filler_id(tokenizer)
    return replace(shard, tokens=tokens)


def filler_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that stands for nothing: a full stop, as in work on pause tokens."""
    return encode_texts(tokenizer, ["."])[0][-1]


def habit_loss(
    model: PreTrainedModel,
    before: PreTrainedModel | None,
    batch: Mapping[str, Tensor],
    *,
    hold_weight: float,
    autocast: torch.dtype = torch.float32,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of `HabitBatches`, and its parts in nats per token.

    Args:
        model: in training.
        before: the frozen model that ordinary text is held to; None = not held.
        batch: on the model's device.
        hold_weight: w.
        autocast: type of the forward passes.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    with arithmetic(ids.device, autocast):
        logits = model(**accepted(model, batch), use_cache=False).logits
    cross = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    parts = {"quietstar/cross_entropy": float(cross.detach())}
    if before is None or hold_weight == 0:
        return cross, parts
    rows = batch["ordinary"].any(1)
    held = {name: value[rows] for name, value in batch.items()}
    with torch.no_grad(), arithmetic(ids.device, autocast):
        reference = before(**accepted(before, held), use_cache=False).logits
    real = held["ordinary"]
    now, then = logits[rows][real].float().log_softmax(-1), reference[real].float().log_softmax(-1)
    divergence = F.kl_div(now, then, reduction="batchmean", log_target=True)
    parts["quietstar/hold_divergence"] = float(divergence.detach())
    return cross + hold_weight * divergence, parts
