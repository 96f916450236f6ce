"""Long-term memory beside the window: `EmaMemory`, the reference of the specification.

m_t = 0.99·m_{t−1} + 0.01·W_down·x_t, read by W_up. Computed chunk by chunk: inside a chunk one matrix
product with the powers of the decay, from chunk to chunk the last state.
What differs from a plain loop:
1. It starts again at every document: weights between tokens of different documents are zero.
2. Distances are positions in the document, so padding neither writes nor lets time pass.
3. Exact for any chunk length, and for a text cut anywhere with the state handed over.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from agent_forge.model.attention import TokenLayout

DECAY = 0.99
CHUNK = 64


def exponential_average(
    x: Tensor,
    layout: TokenLayout,
    *,
    decay: float = DECAY,
    state: tuple[Tensor, Tensor] | None = None,
    chunk: int = CHUNK,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Exponential moving average over the tokens of each document.

    Args:
        x: [B, T, M] inputs.
        layout: where the tokens stand.
        decay: share of the old state that a token keeps (0-1).
        state: (average [B, M], its position [B or 1, 1]) after the tokens before; None = nothing yet.
        chunk: tokens per matrix product; does not change the result.

    Returns:
        The averages [B, T, M] in fp32, and the state after the last token.
    """
    # 1. inputs in fp32: a sum of hundreds of terms of 1 − decay
    with torch.autocast(x.device.type, enabled=False):
        values = x.float() * (1 - decay)
        if layout.valid is not None:
            values = values * layout.valid[..., None]
        length = x.shape[1]
        parts = []
        carry, carry_at = state if state is not None else (None, None)
        documents = layout.documents
        previous: Tensor | None = None
        # 2. chunk by chunk; T / chunk products, not T steps
        for start in range(0, length, chunk):
            stop = min(start + chunk, length)
            positions = layout.positions[:, start:stop]
            document = None if documents is None else documents[:, start:stop]
            out = _weights(positions, document, decay) @ values[:, start:stop]
            # 3. what earlier chunks left, for tokens of the same document
            if carry is not None and carry_at is not None:
                faded = decay ** (positions - carry_at).float()
                if document is not None and previous is not None:
                    faded = faded * (document == previous)
                out = out + faded[..., None] * carry[:, None]
            parts.append(out)
            carry, carry_at = out[:, -1], positions[:, -1:]
            previous = None if document is None else document[:, -1:]
        assert carry is not None
        assert carry_at is not None
        return torch.cat(parts, 1), (carry, carry_at)


def _weights(positions: Tensor, documents: Tensor | None, decay: float) -> Tensor:
    """[B or 1, C, C]: decay to the power of the distance, for earlier tokens of the same document."""
    distance = (positions[:, :, None] - positions[:, None, :]).float()
    count = positions.shape[1]
    visible = torch.ones(count, count, dtype=torch.bool, device=positions.device).tril()
    if documents is not None:
        visible = visible & (documents[:, :, None] == documents[:, None, :])
    return torch.where(visible, decay ** distance.clamp(min=0), 0.0)


class EmaMemory(nn.Module):
    """W_up · (moving average of W_down · x).

    Args:
        hidden_size: channels of the stream.
        memory_size: channels of the memory.
    """

    def __init__(self, hidden_size: int, memory_size: int) -> None:
        super().__init__()
        self.down_proj = nn.Linear(hidden_size, memory_size, bias=False)
        self.up_proj = nn.Linear(memory_size, hidden_size, bias=False)
        # the memory starts silent whatever other outputs do
        self.up_proj.starts_as = "zero"  # type: ignore[assignment]

    def forward(self, x: Tensor, layout: TokenLayout, states: dict[str, Any] | None = None) -> Tensor:
        """Reads for each token of ``x`` [B, T, hidden] what it and its past wrote; ``states`` of the cache slot."""
        state = None if states is None else states.get("memory")
        averages, state = exponential_average(self.down_proj(x), layout, state=state)
        if states is not None:
            states["memory"] = state
        return self.up_proj(averages.to(x.dtype))
