"""Depthwise causal convolution over a few tokens, before attention and before the SwiGLU.

Short convolutions in language models: So et al. 2021 (Primer, arXiv:2109.08668); Allen-Zhu 2025 (Canon
layers, SSRN 5240330). What differs:
1. It starts as the identity (tap 0 is one, the others zero).
2. It does not cross documents and ignores padding. The kernel runs over the row as it is, and the few
   tokens near the start of a document are corrected afterwards: masking every tap would cost more.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.attention import TokenLayout


class ShortConvolution(nn.Module):
    """y_t = Σ_s weight[:, s] · x_{t−s}, s < width, channel by channel.

    Args:
        size: channels.
        width: taps.
    """

    parameter_role = "convolution"

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight = nn.Parameter(torch.zeros(size, width))

    def forward(self, x: Tensor, crossings: Crossings, states: dict[str, Any] | None, name: str) -> Tensor:
        """Convolves ``x`` [B, T, size].

        Args:
            x: inputs.
            crossings: of the same pass.
            states: states of the cache slot, read and written under ``name``; None = no cache.
            name: which convolution of the block this is.
        """
        if crossings.valid is not None:
            x = x * crossings.valid[..., None].to(x.dtype)
        length = x.shape[1]
        if states is not None:
            past = states.get(name)
            if past is None:
                past = x.new_zeros(x.shape[0], self.width - 1, x.shape[2])
            x = torch.cat([past, x], 1)
            states[name] = x[:, x.shape[1] - self.width + 1 :]
        weight = self.weight.to(x.dtype)
        y = _correlate(x, weight, states is None)[:, -length:] if length > 1 else _one_token(x, weight)
        for back, (row, column) in enumerate(crossings.taps, start=1):
            wrong = x[row, column - back] * weight[:, back]
            y = y.index_put((row, column), -wrong.to(y.dtype), accumulate=True)
        return y


class Crossings:
    """Where taps of a convolution would reach into another document.

    Args:
        layout: of the tokens of this pass.
        width: taps.
    """

    def __init__(self, layout: TokenLayout, width: int) -> None:
        self.valid = layout.valid
        self.taps: list[tuple[Tensor, Tensor]] = []
        documents = layout.documents
        if documents is not None:
            for back in range(1, min(width, documents.shape[1])):
                row, column = (documents[:, back:] != documents[:, :-back]).nonzero(as_tuple=True)
                self.taps.append((row, column + back))


def _correlate(x: Tensor, weight: Tensor, pad: bool) -> Tensor:
    """As a 2-D convolution in channels-last order, which [B, T, C] already is: no transposed copy."""
    taps = weight.flip(1)[:, None, None]
    width = weight.shape[1]
    y = F.conv2d(x.unsqueeze(1).permute(0, 3, 1, 2), taps, padding=(0, width - 1 if pad else 0), groups=weight.shape[0])
    return y[..., : x.shape[1]].permute(0, 2, 3, 1).squeeze(1) if pad else y.permute(0, 2, 3, 1).squeeze(1)


def _one_token(x: Tensor, weight: Tensor) -> Tensor:
    """The last token of ``x`` [B, ≥1, C]; earlier ones are its past."""
    recent = x[:, -weight.shape[1] :]
    return (recent * weight.flip(1).T[-recent.shape[1] :]).sum(1, keepdim=True)
