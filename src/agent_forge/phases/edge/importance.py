"""How much the loss would mind the loss of a head, a channel of a SwiGLU, or a layer, to first order.

Michel, Levy, Neubig 2019 ("Are Sixteen Heads Really Better than One?", arXiv:1905.10650, section 4.1): with a gate
ξ = 1 on each unit, I = E |∂L/∂ξ| = E |aᵀ ∂L/∂a| over inputs, a being what the unit gives. Molchanov et al. 2019
("Importance Estimation for Neural Network Pruning", arXiv:1906.10771, section 3.1) give the same first-order term.

What we do differently:
1. All units of a model are looked at in one backward pass: a is read where it enters the projection back to the
   stream, so the same lines serve heads and channels, of any architecture and with weights of any kind.
2. The expectation is over sequences: products are summed over tokens before the absolute value is taken.
3. A layer counts by what it adds to the stream, (output − input)ᵀ ∂L/∂output.
4. A unit that a shared block uses several times is summed over its uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from agent_forge.model.forward import accepted


@dataclass(frozen=True)
class Importance:
    """Expected change of the loss, nats per token.

    Attributes:
        inputs: for each projection that was watched [columns], by path.
        layers: [layers].
        loss: mean loss of the batches, nats per token.
    """

    inputs: dict[str, Tensor]
    layers: Tensor
    loss: float


def first_order(
    model: nn.Module,
    batches: Sequence[Mapping[str, Tensor]],
    projections: Mapping[str, nn.Module],
    layers: Sequence[nn.Module],
    widths: Mapping[str, int] | None = None,
) -> Importance:
    """The importance of every unit.

    Args:
        model: a causal language model in evaluation mode; its parameters are neither changed nor given gradients.
        batches: ``input_ids`` [B, T], ``labels`` [B, T] (unshifted, −100 ignored; else the tokens), and what else the
            model takes.
        projections: linear layers whose inputs are the units.
        layers: blocks that map the stream to the stream.
        widths: adjoining input columns that are one unit together; 1 where it is not named.

    Raises:
        ValueError: there is no batch, or a projection was never used.
    """
    if not batches:
        raise ValueError("importance needs at least one batch")
    inputs: dict[str, Tensor] = {}
    changes = torch.zeros(len(layers), dtype=torch.float64)
    losses = 0.0
    for batch in batches:
        watched = _Watch(projections, layers)
        with torch.enable_grad(), watched:
            loss = token_loss(model, batch)
        found = [(path, x) for path, xs in watched.inputs.items() for x in xs]
        outputs = [(number, x, y) for number, (x, y) in watched.layers.items()]
        unused = sorted(set(projections) - set(watched.inputs))
        if unused:
            raise ValueError(f"{unused[0]} was never used by the model ({len(unused)} of {len(projections)})")
        tensors = [x for _, x in found] + [y for *_, y in outputs]
        gradients = torch.autograd.grad(loss, tensors) if tensors else ()
        for (path, x), gradient in zip(found, gradients, strict=False):
            width = (widths or {}).get(path, 1)
            each = _per_sequence(x, gradient).unflatten(-1, (-1, width)).sum(-1).abs().sum(0)
            inputs[path] = inputs.get(path, torch.zeros_like(each)) + each / len(batches)
        for (number, x, y), gradient in zip(outputs, gradients[len(found) :], strict=True):
            changes[number] += float(_per_sequence(y - x, gradient).sum(-1).abs().sum()) / len(batches)
        losses += float(loss.detach()) / len(batches)
    return Importance(inputs, changes, losses)


def token_loss(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the next token, nats."""
    logits = model(**accepted(model, batch), use_cache=False).logits
    labels = batch.get("labels", batch["input_ids"])
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


class _Watch:
    """Within, keeps what enters the projections and what enters and leaves the layers."""

    def __init__(self, projections: Mapping[str, nn.Module], layers: Sequence[nn.Module]) -> None:
        self.projections, self.blocks = projections, layers
        self.inputs: dict[str, list[Tensor]] = {}
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> _Watch:
        for path, module in self.projections.items():
            self._hooks.append(module.register_forward_pre_hook(self._projection(path)))
        for number, block in enumerate(self.blocks):
            self._hooks.append(block.register_forward_hook(self._layer(number), with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def _projection(self, path: str) -> Callable[..., None]:
        return lambda _, arguments: self.inputs.setdefault(path, []).append(arguments[0])

    def _layer(self, number: int) -> Callable[..., None]:
        def keep(_: nn.Module, arguments: tuple[Tensor, ...], named: dict[str, Tensor], output: object) -> None:
            x = arguments[0] if arguments else named["hidden_states"]
            y = output[0] if isinstance(output, tuple) else output
            assert isinstance(y, Tensor)
            self.layers[number] = (x.detach(), y)

        return keep


@torch.no_grad()
def _per_sequence(x: Tensor, gradient: Tensor) -> Tensor:
    """[B, T, C] (or [B, A, C]) of values and gradients → [B, C], summed over tokens."""
    return (x.detach().double() * gradient.double()).sum(1)
