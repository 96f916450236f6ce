"""What is left after compression, measured on held-out text against the phase's own input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Document
from agent_forge.evaluation.bits_per_byte import score
from agent_forge.evaluation.retention import allowed_loss, byte_entropy, retained_fraction
from agent_forge.phases.compression.forge_file import stored_tensors


@dataclass(frozen=True)
class Quality:
    """Bits per byte (mean over domains) and retention (1 = nothing lost)."""

    bits_per_byte: float
    retention_fraction: float


class Bench:
    """A model whose weights are replaced by reconstructions, and put back.

    Attributes:
        model: the model that is measured; its weights change.
        tensors: the input's weights by name, never changed.
        tied: alias → name.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        found, self.tied = stored_tensors(model)
        self._live = found
        self.tensors = {name: tensor.clone() for name, tensor in found.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Puts the values in; every other tensor is that of the input."""
        for name, tensor in self._live.items():
            tensor.copy_(values.get(name, self.tensors[name]))


class Meter:
    """Scores the model on one set of documents.

    Attributes:
        reference: bits per byte of the input.
        floor: bits per byte of the order-0 entropy of the text: what is left when everything is forgotten.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        documents: Mapping[str, Sequence[Document]],
        *,
        max_length: int,
    ) -> None:
        self._model, self._tokenizer, self._max_length = model, tokenizer, max_length
        self._documents = {domain: list(own) for domain, own in documents.items() if own}
        if not self._documents:
            raise ValueError("there is no document to measure on")
        self.floor = float(np.mean([byte_entropy(own) for own in self._documents.values()]))
        self.reference = self.bits_per_byte()

    def bits_per_byte(self, model: PreTrainedModel | None = None) -> float:
        """Mean over domains, of the bench's model as it is now or of another one; infinite if it gives no numbers."""
        target = self._model if model is None else model
        try:
            found = [
                score(target, self._tokenizer, own, max_length=self._max_length).bits_per_byte
                for own in self._documents.values()
            ]
        except FloatingPointError:
            return float("inf")
        return float(np.mean(found))

    def retention(self, bits_per_byte: float, reference: float | None = None) -> float:
        """`retained_fraction` against the input, or against another reference."""
        return retained_fraction(bits_per_byte, self.reference if reference is None else reference, self.floor)

    def measure(self) -> Quality:
        """Quality of the bench's model as it is now."""
        now = self.bits_per_byte()
        return Quality(now, self.retention(now))

    def allowed_increase(self, *, max_increase_fraction: float, min_retention: float) -> float:
        """Bits per byte that may be lost: the tighter of both bounds."""
        room = allowed_loss(self.reference, self.floor, min_retention)
        return min(room, max_increase_fraction * self.reference)
