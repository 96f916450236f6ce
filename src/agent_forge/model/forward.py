"""One forward pass of any causal language model: what it takes, on which device, in which arithmetic, and what its head
read, token by token or averaged over a text.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.decoder import Decoder


def on_device(device: str | torch.device, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a batch where the model is."""
    return {name: value.to(device) for name, value in batch.items()}


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
    with head_inputs(model) as seen, arithmetic(batch["input_ids"].device, autocast):
        logits = model(**accepted(model, batch), use_cache=False).logits
    return logits.float(), seen[0].float()


@torch.inference_mode()
def mean_hidden(model: Decoder, rows: Sequence[Sequence[int]], *, skip: int = 0, batch_tokens: int = 4096) -> Tensor:
    """What the head reads, averaged over the tokens of each text, float64 [N, d]; zeros for a text without tokens.

    A model that gives no more than the average (an exported graph) has a ``mean_hidden(ids, skip)`` of its own.

    Args:
        model: in evaluation mode.
        rows: token ids of each text.
        skip: tokens at the beginning of each that are read and not averaged.
        batch_tokens: tokens in a batch at most, padding included.
    """
    own: Any = getattr(model, "mean_hidden", None)
    if own is not None:
        return torch.stack([own(ids, skip) for ids in rows])
    order = sorted(range(len(rows)), key=lambda n: (-len(rows[n]), n))
    found: list[Tensor] = [torch.empty(0)] * len(rows)
    at = 0
    while at < len(order):
        longest = max(1, len(rows[order[at]]))
        chosen = order[at : at + max(1, batch_tokens // longest)]
        at += len(chosen)
        ids = torch.zeros(len(chosen), longest, dtype=torch.long)
        for place, n in enumerate(chosen):
            # padded on the right: causal models never look there
            ids[place, : len(rows[n])] = torch.tensor(rows[n], dtype=torch.long)
        _, hidden = logits_and_hidden(model, {"input_ids": ids.to(model.device)})  # type: ignore[arg-type]
        for place, n in enumerate(chosen):
            read = hidden[place, skip : len(rows[n])].double()
            found[n] = read.sum(0).cpu() if not len(read) else read.mean(0).cpu()
    return torch.stack(found)


@contextmanager
def head_inputs(model: nn.Module) -> Iterator[list[Tensor]]:
    """Within, every forward pass adds what the head reads, [B, T, d], to the list."""
    seen: list[Tensor] = []
    head: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    handle = head.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    try:
        yield seen
    finally:
        handle.remove()


def arithmetic(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """The scope of forward passes in ``dtype``: autocast, or nothing for fp32."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)
