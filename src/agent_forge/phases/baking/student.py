"""The weights that are baked into: full precision or ternary, whole or by low-rank deltas.

Paper: Bhargava et al. 2024 (arXiv:2409.13697, section 3) for what is changed; Hu et al. 2021 (arXiv:2106.09685) for the
deltas; Ma et al. 2024 (arXiv:2402.17764) for ternary weights.

What we do differently:
1. A ternary model is trained through its estimator: what is interpolated and merged are latent weights, and the forward
   pass is the ternary one at every step, so that nothing is lost when they are rounded for good.
2. A segment of training begins with a fresh optimizer and ends with half-baking against its own beginning.
3. Embeddings and head stay as they are: special tokens keep their rows, and nothing has to be packed anew.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model.roles import parameter_roles, quantizable_linears
from agent_forge.model.ternary import ternary_linears
from agent_forge.model.ternary_checkpoint import finish_student, thaw_student
from agent_forge.model.ternary_selection import select
from agent_forge.optim import lora_delta
from agent_forge.optim.prompt_baking import interpolate
from agent_forge.optim.ternary_training import TernaryTraining


class Student:
    """A model and the training of one segment.

    Args:
        model: as `agent_forge.model.checkpoint.load_model` gives it; changed in place.
        tokenizer: its tokenizer.
        adapter_rank: 0 = the weights themselves.
        optimizer: "muon" or "adamw".

    Attributes:
        training: optimizer of the running segment.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, adapter_rank: int = 0, optimizer: str
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.is_ternary = bool(ternary_linears(model))
        self._adapter_rank, self._optimizer = adapter_rank, optimizer
        self.frozen: set[str] = set()
        if self.is_ternary:
            _, kept = thaw_student(model, tokenizer)
            self.frozen |= set(kept)
        roles = parameter_roles(model)
        self.matrices = [name for name, _ in quantizable_linears(model) if name not in self.frozen]
        self.frozen |= {name for name, role in roles.items() if role in ("embedding", "head")}
        self._names = [name for name, _ in model.named_parameters() if name not in self.frozen]
        self.training: TernaryTraining | None = None

    def weights(self) -> dict[str, Tensor]:
        """Copies of what can change, by name; ask between segments, or within one without an adapter."""
        parameters = dict(self.model.named_parameters())
        return {name: parameters[name].detach().clone() for name in self._names}

    @torch.no_grad()
    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over weights of `weights`."""
        parameters = dict(self.model.named_parameters())
        for name in self._names:
            parameters[name].copy_(weights[name])

    def begin(self, learning_rate: float, generator: torch.Generator, *, whole: bool = False) -> None:
        """Starts a segment.

        Args:
            learning_rate: peak.
            generator: of the adapter's first matrices.
            whole: trains the weights themselves even where an adapter is configured.
        """
        adapter = self._adapter_rank > 0 and not whole
        matrices = set(self.matrices) if self._optimizer == "muon" and not adapter else set()
        frozen = set(self.frozen)
        if adapter:
            lora_delta.attach(self.model, self.matrices, rank=self._adapter_rank, generator=generator)
            frozen = {name for name, _ in self.model.named_parameters() if ".lora_" not in name}
        self.training = TernaryTraining(
            self.model,
            matrices=matrices,
            frozen=frozen,
            learning_rate=learning_rate,
            adamw_learning_rate=learning_rate / 4 if matrices else learning_rate,
        )

    def end(self, before: Mapping[str, Tensor], strength: float) -> None:
        """Ends a segment: takes the adapter off, and keeps ``strength`` of what has changed since ``before``."""
        self.training = None
        deltas = lora_delta.take_off(self.model)
        after = self.weights()
        for name, delta in deltas.items():
            after[name] = before[name] + delta
        self.load(interpolate(before, after, strength))
        self.model.requires_grad_(False)

    def finish(self) -> None:
        """Rounds a ternary model for good; a model in full precision stays as it is."""
        if self.is_ternary:
            finish_student(self.model, select(self.model, self.tokenizer))
