"""Bits per byte of a model by domain, as named figures."""

from __future__ import annotations

import math

import torch
from transformers import PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.evaluation.bits_per_byte import mean_bits_per_byte, score_domains
from agent_forge.model import CognateForCausalLM


def domain_figures(
    model: CognateForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Corpus,
    split: Split,
    *,
    max_documents: int,
    precision: torch.dtype,
) -> dict[str, float]:
    """How well a model predicts each domain.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        corpus: what is read.
        split: "selection" while training, "test" for what gates read.
        max_documents: of each domain.
        precision: of the forward passes.

    Returns:
        ``bits_per_byte`` (mean over domains), ``bits_per_byte/<domain>``, ``loss`` (nats per token), ``perplexity``.
    """
    scores = score_domains(
        model,
        tokenizer,
        corpus,
        split,
        max_documents,
        max_length=min(512, model.config.max_position_embeddings),
        autocast=None if precision == torch.float32 else precision,
    )
    nats = sum(float(score.nats_per_document.sum()) for score in scores.values())
    loss = nats / sum(score.tokens for score in scores.values())
    figures = {f"bits_per_byte/{domain}": score.bits_per_byte for domain, score in scores.items()}
    return figures | {"bits_per_byte": mean_bits_per_byte(scores), "loss": loss, "perplexity": math.exp(min(loss, 80))}
