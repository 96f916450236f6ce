"""Depthwise causal convolution over a few tokens, before attention and before the SwiGLU.

Short convolutions in language models: So et al. 2021 (Primer, arXiv:2109.08668); Allen-Zhu 2025 (Canon
layers, SSRN 5240330). What differs:
1. It starts as the identity (tap 0 is one, the others zero).
2. It does not cross documents and ignores padding. The kernel runs over the row as it is, and the few
   tokens near the start of a document are corrected afterwards: masking every tap would cost more.
3. The gradient is written out. torch's own, for one channel per group on a CPU, takes eight times as long as
   the convolution with reversed taps and one product per tap that it amounts to.
4. Where a given mask lets a row branch (`GivenTaps`), a tap sees what is so many positions before its token among
   the tokens that it may see, wherever that stands in the row.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.attention import TokenLayout

Taps: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Indices among the B·T tokens of the token that looked too far and of what it saw, and the tap."""


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

    def forward(self, x: Tensor, crossings: Crossings | GivenTaps, states: dict[str, Any] | None, name: str) -> Tensor:
        """Convolves ``x`` [B, T, size].

        Args:
            x: inputs.
            crossings: of the same pass.
            states: states of the cache slot, read and written under ``name``; None = no cache.
            name: which convolution of the block this is.

        Raises:
            ValueError: a given mask and a cache that was filled without one.
        """
        if isinstance(crossings, GivenTaps):
            return self._along_given(x, crossings, states, name)
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
        if length == 1:
            return _one_token(x, weight)
        return _Convolve.apply(x, weight, crossings.taps)[:, -length:]

    def _along_given(self, x: Tensor, taps: GivenTaps, states: dict[str, Any] | None, name: str) -> Tensor:
        """As `forward`, each tap where the mask says; the state holds the inputs of all keys."""
        inputs = x
        if states is not None:
            past = states.get(name)
            inputs = x if past is None else torch.cat([past, x], 1)
            states[name] = inputs
        if inputs.shape[1] != taps.num_keys:
            raise ValueError(
                f"a mask over {taps.num_keys} tokens, but the convolution remembers {inputs.shape[1]}: "
                "fill the cache with attention_masks of 4 axes from its first token on"
            )
        weight = self.weight.to(x.dtype)
        y = x * weight[:, 0]
        for back, (source, found) in enumerate(zip(taps.sources, taps.found, strict=True), 1):
            y = y + _at(inputs, source) * (found[..., None] * weight[:, back])
        return y


class Crossings:
    """Where taps of a convolution would reach into another document.

    Args:
        layout: of the tokens of this pass.
        width: taps.
    """

    def __init__(self, layout: TokenLayout, width: int) -> None:
        self.valid = layout.valid
        self.taps: Taps | None = None
        documents = layout.documents
        if documents is None:
            return
        found = []
        for back in range(1, min(width, documents.shape[1])):
            row, column = (documents[:, back:] != documents[:, :-back]).nonzero(as_tuple=True)
            source = row * documents.shape[1] + column
            found.append((source + back, source, torch.full_like(source, back)))
        if sum(part[0].numel() for part in found):
            targets, sources, backs = (torch.cat(parts) for parts in zip(*found, strict=True))
            self.taps = targets, sources, backs


class GivenTaps:
    """What each tap sees under a given mask: of the tokens that a query may see, the one so many positions back.

    Where there is none the tap sees zero; where there are several (no text with branches has that), the first.

    Args:
        visible: bool [B or 1, T, S], which keys the queries of this pass may see.
        queries: [B or 1, T] positions.
        keys: [B or 1, S] positions of all keys, cached ones first.
        width: taps.
    """

    def __init__(self, visible: Tensor, queries: Tensor, keys: Tensor, width: int) -> None:
        self.num_keys = keys.shape[1]
        self.sources: list[Tensor] = []
        self.found: list[Tensor] = []
        for back in range(1, width):
            match, source = (((queries - back)[:, :, None] == keys[:, None, :]) & visible).max(-1)
            self.found.append(match)
            self.sources.append(source)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, taps: Taps | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.taps = taps
        y = _correlate(x, weight)
        if taps is not None:
            target, source, back = taps
            wrong = x.flatten(0, 1)[source] * weight.T[back]
            y = y.contiguous()
            y.view(-1, y.shape[-1]).index_add_(0, target, wrong, alpha=-1)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        # 1. the inputs: the same convolution, looking forward
        dx = _correlate(gradient, weight, forward=True)
        # 2. the taps: input and gradient, so many tokens apart (torch adds up bf16 in fp32)
        length = x.shape[1]
        columns = [
            (gradient[:, back:] * x[:, : length - back]).sum((0, 1)) if back < length else x.new_zeros(x.shape[2])
            for back in range(weight.shape[1])
        ]
        dweight = torch.stack(columns, 1)
        # 3. less what crossed a border
        if ctx.taps is not None:
            target, source, back = ctx.taps
            at = gradient.flatten(0, 1)[target]
            dx = dx.contiguous()
            dx.view(-1, dx.shape[-1]).index_add_(0, source, at * weight.T[back], alpha=-1)
            crossed = torch.zeros_like(weight.T).index_add_(0, back, at * x.flatten(0, 1)[source])
            dweight = dweight - crossed.T
        return dx, dweight, None


def _correlate(x: Tensor, weight: Tensor, forward: bool = False) -> Tensor:
    """As a 2-D convolution in channels-last order, which [B, T, C] already is: no transposed copy."""
    width = weight.shape[1]
    taps = weight if forward else weight.flip(1)
    y = F.conv2d(
        x.unsqueeze(1).permute(0, 3, 1, 2), taps[:, None, None], padding=(0, width - 1), groups=weight.shape[0]
    )
    return (y[..., width - 1 :] if forward else y[..., : x.shape[1]]).permute(0, 2, 3, 1).squeeze(1)


def _at(x: Tensor, index: Tensor) -> Tensor:
    """Tokens ``index`` [B or 1, T] of ``x`` [B, S, C]."""
    if index.shape[0] == 1:
        return x[:, index[0]]
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _one_token(x: Tensor, weight: Tensor) -> Tensor:
    """The last token of ``x`` [B, ≥1, C]; earlier ones are its past."""
    recent = x[:, -weight.shape[1] :]
    return (recent * weight.flip(1).T[-recent.shape[1] :]).sum(1, keepdim=True)
