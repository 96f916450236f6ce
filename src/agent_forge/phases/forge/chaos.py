"""One number in [0, 0.3] that disturbs training, a controller that moves it, and a measure of what it does.

The number c sets three disturbances: c of the edge level's share goes to its neighbours (`edge_of_chaos.mixture`);
c / 4 of the input tokens are replaced by other tokens of the batch; every latent weight is moved by a Gaussian of
c / 2 of its layer's mean absolute weight, for one forward and backward pass.

The measure is in the manner of the largest Lyapunov exponent (Benettin et al. 1980; for networks Poole et al. 2016,
"Exponential expressivity in deep neural networks through transient chaos", arXiv:1606.05340): two embedded texts that
are almost the same, and how their distance has grown per layer at the head. Above 0 the network is chaotic, below 0
it forgets small differences.

What we do differently:
1. 0.3 is a hard limit: whatever asks for more gets 0.3, and is told (premortem CF2).
2. The distance is relative to the length of the states, because norms make their length meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from agent_forge.model.forward import accepted, head_inputs
from agent_forge.model.ternary import ternary_linears

LIMIT = 0.3
INPUT_SHARE = 0.25
WEIGHT_SHARE = 0.5


class Chaos:
    """The number and its controller.

    Args:
        value: to begin with.
        wanted: success at the edge that the controller aims at.
        gain: change of the number for each unit of surplus success.

    Attributes:
        refused: how often more than the limit was asked for.
    """

    def __init__(self, value: float = 0.0, *, wanted: float = 0.75, gain: float = 0.2) -> None:
        self.wanted, self.gain = wanted, gain
        self.refused = 0
        self._value = 0.0
        self.value = value

    @property
    def value(self) -> float:
        """Always within [0, 0.3]."""
        return self._value

    @value.setter
    def value(self, asked: float) -> None:
        if not asked <= LIMIT:
            self.refused += 1
        self._value = min(LIMIT, max(0.0, asked if math.isfinite(asked) else 0.0))

    def follow(self, success: float) -> float:
        """Moves the number after an assessment: too easy, more chaos; too hard, less."""
        # A controller at its stop asks for nothing: only others can be refused.
        self._value = min(LIMIT, max(0.0, self._value + self.gain * (success - self.wanted)))
        return self._value

    def settle(self, asked: float) -> float:
        """Without a controller: back to ``asked`` from above at once, from below (after a failure) by doubling."""
        self._value = min(LIMIT, max(0.0, asked), 2 * self._value)
        return self._value

    def halve(self) -> None:
        """After a failure."""
        self._value /= 2


def disturb_tokens(
    ids: Tensor, replaceable: Tensor, strength: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Replaces a share of the input tokens by other tokens of the batch; labels stay what they were.

    Args:
        ids: int64 [B, T].
        replaceable: bool [B, T]; marks and padding are not.
        strength: c.
        generator: on the CPU.

    Returns:
        The disturbed ids, and where they were touched.
    """
    draws = torch.rand(ids.shape, generator=generator).to(ids.device)
    touched = (draws < INPUT_SHARE * strength) & replaceable
    candidates = ids[replaceable]
    if not len(candidates):
        return ids, touched
    others = torch.randint(len(candidates), ids.shape, generator=generator).to(ids.device)
    return torch.where(touched, candidates[others], ids), touched


@contextmanager
def noisy_weights(model: nn.Module, strength: float, generator: torch.Generator) -> Iterator[None]:
    """Moves every latent weight for as long as the block runs; gradients of the block stay in place."""
    layers = ternary_linears(model).values() if strength > 0 else ()
    saved = [(layer, layer.weight.detach().clone()) for layer in layers]
    try:
        with torch.no_grad():
            for layer, before in saved:
                noise = torch.randn(before.shape, generator=generator).to(before.device)
                layer.weight.add_(noise, alpha=WEIGHT_SHARE * strength * float(before.abs().mean()))
        yield
    finally:
        with torch.no_grad():
            for layer, before in saved:
                layer.weight.copy_(before)


@torch.no_grad()
def sensitivity(
    model: nn.Module, batch: Mapping[str, Tensor], num_layers: int, *, distance: float = 1e-2, seed: int = 0
) -> float:
    """Growth of a small relative difference from the embedding to the head, in nats per layer.

    Args:
        model: a causal language model.
        batch: ``input_ids`` [B, T] and what else it takes.
        num_layers: layers that the difference passes.
        distance: of the two embedded texts, relative to their length.
        seed: of the direction.
    """
    generator = torch.Generator().manual_seed(seed)
    embedding: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    moved = [0.0]

    def displace(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        noise = torch.randn(output.shape, generator=generator).to(output)
        return output + moved[0] * noise * (output.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))

    handle = embedding.register_forward_hook(displace)
    try:
        with head_inputs(model) as states:
            for moved[0] in (0.0, distance):
                model(**accepted(model, batch), use_cache=False)
    finally:
        handle.remove()
    here, there = (state.float() for state in states)
    apart = (there - here).norm(dim=-1) / here.norm(dim=-1).clamp(min=1e-12)
    return math.log(max(float(apart.mean()), 1e-12) / distance) / max(1, num_layers)
