"""One forward pass of any causal language model: only what it takes is handed on, in the wanted arithmetic."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


def accepted(model: nn.Module, batch: Mapping[str, Tensor]) -> dict[str, Any]:
    """What of a batch ``model`` takes, without labels: foreign architectures know no ``document_ids``."""
    known = inspect.signature(model.forward).parameters
    return {name: value for name, value in batch.items() if name in known and name != "labels"}


def logits_and_hidden(
    model: nn.Module, batch: Mapping[str, Tensor], autocast: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """Logits [B, T, V] and what the head read [B, T, d], both fp32.

    Args:
        model: a causal language model.
        batch: ``input_ids`` [B, T]; more is handed on if the model takes it.
        autocast: type of the arithmetic; fp32 = none.
    """
    seen: list[Tensor] = []
    head = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        with arithmetic(batch["input_ids"].device, autocast):
            logits = model(**accepted(model, batch), use_cache=False).logits
    finally:
        handle.remove()
    return logits.float(), seen[0].float()


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """The scope of forward passes in ``dtype``: autocast, or nothing for fp32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
