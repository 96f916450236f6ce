"""What decoding and the agent's loop need of a model: tokens in, logits of the next token and a past out.

Every `PreTrainedModel` is a `Decoder`; so is an exported graph (`agent_forge.phases.edge.onnx_model`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import DynamicCache


class Decoder(Protocol):
    """A causal language model that is only read from.

    It is called with ``input_ids`` [B, T], ``attention_mask`` [B, past + T], ``past_key_values``, ``use_cache=True``
    and ``logits_to_keep=1``, and gives something with ``logits`` [B, 1, vocab] and ``past_key_values``. It may have a
    ``make_cache`` of its own; rows of a cache are selected by ``batch_select_indices``.

    Attributes:
        config: has ``n_positions`` where positions are a learned table.
        device: where tokens are given.
    """

    config: Any

    @property
    def device(self) -> torch.device:
        """See the class."""
        ...

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """As called."""
        ...

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """See the class."""
        ...


def empty_cache(model: Decoder) -> Any:
    """A past without tokens: of the model's own kind, else the standard one of `transformers`."""
    own: Any = getattr(model, "make_cache", None)
    return DynamicCache(config=model.config) if own is None else own()
