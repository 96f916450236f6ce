"""Two fusions that give the same logits with less work: gains of norms folded away, projections of one input joined.

RMSNorm gains: x/rms(x) · g before a linear map W is x/rms(x) before W · diag(g), as in Ashkboos et al. 2024, "SliceGPT"
(arXiv:2401.15024, section 3.1). One product for queries, keys and values: Shoeybi et al. 2019, "Megatron-LM"
(arXiv:1909.08053, section 3).

What we do differently:
1. Which layer reads which norm, and which layers share an input, is seen by watching one pass, so the same lines serve
   any architecture; what else reads a norm is found by comparing logits, and a fold that changes them is taken back.
2. Where a short convolution follows the norm the gain goes into its taps, so that ternary layers stay ternary.
3. Joined ternary layers stay ternary: one scale per row says what one scale per layer said. Their inputs are rounded to
   int8 once and not once for each.
4. Joined layers are for running and exporting; `Fused.undo` gives back the layers that a checkpoint holds.

Rounding of activations to int8 jumps, so that 1e-7 before it becomes a tenth of a logit behind it: two ways of adding
up the same sum (a text at once, or token by token with a cache) already differ as much. Folded gains would be written
into a checkpoint, so on a model that rounds its activations they are folded only where the caller says that this is
meant. Joined layers nearly always add up in the same order, and nothing of them is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from agent_forge.model.convolution import ShortConvolution
from agent_forge.model.ternary import PER_ROW, PER_TENSOR, Layout, TernaryLinear, codes_of, ternary_linears

TOLERANCE = 1e-4
"""Largest difference of a logit."""


@dataclass
class Fused:
    """What became of it.

    Attributes:
        done: what was fused: path → into what.
        skipped: what was not: path → why.
        difference: largest difference of a logit on the probe, activations not rounded (of what was tried).
        difference_rounded: the same with activations rounded as the model does; equal where it does not round.
        undo: puts everything back, bit for bit.
    """

    done: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    difference: float = 0.0
    difference_rounded: float = 0.0
    undo: Callable[[], None] = field(default_factory=lambda: _nothing)


@torch.no_grad()
def fold_norms(
    model: PreTrainedModel, probe: Tensor, *, tolerance: float = TOLERANCE, through_rounding: bool = False
) -> Fused:
    """Folds the gains of norms into what follows them, in place; the norms then have gains of one.

    Args:
        model: in evaluation mode.
        probe: tokens [B, T] on which logits are compared.
        tolerance: largest difference of a logit.
        through_rounding: compare without the rounding of activations only (see the module).
    """
    found = Fused()
    reads = _watch(model, probe)
    candidates = []
    for path in reads.norms:
        reason = _unfoldable(model, path, reads)
        if reason:
            found.skipped[path] = reason
        else:
            candidates.append(path)
    before, rounded = _logits(model, probe)
    # All at once; only if that changes the logits, one by one to see which.
    undo = [_fold(model, path, reads.readers[path]) for path in candidates]
    if _largest(_logits(model, probe)[0], before) > tolerance:
        for back in reversed(undo):
            back()
        undo = []
        for path in list(candidates):
            back = _fold(model, path, reads.readers[path])
            difference = _largest(_logits(model, probe)[0], before)
            if difference > tolerance:
                back()
                candidates.remove(path)
                found.skipped[path] = f"logits would change by {difference:.2g}: something else reads it, too"
            else:
                undo.append(back)
    found.done = {path: ", ".join(reads.readers[path]) for path in candidates}
    _finished(found, model, probe, (before, rounded), undo)
    if found.difference_rounded > tolerance and not through_rounding:
        found.undo()
        reason = (
            f"activations are rounded to int8 behind it, which makes of {found.difference:.1g} "
            f"{found.difference_rounded:.1g} in a logit"
        )
        found.skipped |= dict.fromkeys(found.done, reason)
        found.done, found.undo = {}, _nothing
    return found


@torch.no_grad()
def join_projections(model: PreTrainedModel, probe: Tensor, *, tolerance: float = TOLERANCE) -> Fused:
    """Joins linear layers of one module that read the same tensor (query, key, value; gate, up), in place.

    Args:
        model: in evaluation mode, for running only: its parameters have other names until ``undo``.
        probe: tokens [B, T] on which logits are compared.
        tolerance: largest difference of a logit.

    Raises:
        ValueError: the joined model gives other logits; it is as it was.
    """
    found = Fused()
    before, rounded = _logits(model, probe)
    undo: list[Callable[[], None]] = []
    for names in _watch(model, probe).together():
        parent, linears = names[0].rpartition(".")[0], [model.get_submodule(name) for name in names]
        reason = _unjoinable(linears)
        if reason:
            found.skipped[", ".join(names)] = reason
            continue
        parts = _join([linear for linear in linears if isinstance(linear, nn.Linear)])
        for name, part in zip(names, parts, strict=True):
            undo.append(_replace(model.get_submodule(parent), name.rpartition(".")[2], part))
        found.done[parent] = " + ".join(name.rpartition(".")[2] for name in names)
    _finished(found, model, probe, (before, rounded), undo)
    if found.difference > tolerance:
        found.undo()
        raise ValueError(f"joined projections change a logit by {found.difference:.2g}, {tolerance:g} is allowed")
    return found


class ProjectionPart(nn.Module):
    """What stands where a joined layer stood: gives its share of the joined product.

    Attributes:
        joint: shared with the other parts; computes once for all of them.
    """

    def __init__(self, joint: Joint, place: int, *, holds: bool) -> None:
        super().__init__()
        self.joint, self.place = joint, place
        if holds:
            self.joined = joint.linear
        self.in_features, self.out_features = joint.linear.in_features, joint.sizes[place]

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] → [..., out]."""
        return self.joint.part(input, self.place)


class Joint:
    """One linear layer that gives the outputs of several. Its parts are read one after another, in one thread."""

    def __init__(self, linear: nn.Linear, sizes: Sequence[int]) -> None:
        self.linear, self.sizes = linear, list(sizes)
        self._input: Tensor | None = None
        self._parts: dict[int, Tensor] = {}

    def part(self, x: Tensor, place: int) -> Tensor:
        """Outputs of layer ``place`` for ``x``; the product is made for the first part that asks."""
        if self._input is not x or place not in self._parts:
            self._input, self._parts = x, dict(enumerate(self.linear(x).split(self.sizes, -1)))
        found = self._parts.pop(place)
        if not self._parts:
            self._input = None
        return found


@dataclass
class _Reads:
    """What one pass showed.

    Attributes:
        norms: paths of norms that ran.
        readers: of each norm, the paths of modules that were given its output.
        others: modules that were also given something else.
        inputs: for each call of a linear layer, in order: its path and its input.
    """

    norms: dict[str, list[Tensor]] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    inputs: list[tuple[str, Tensor]] = field(default_factory=list)

    def together(self) -> Iterator[list[str]]:
        """Linear layers of one module that always read one tensor, each set once."""
        by_input: dict[tuple[int, str], list[str]] = {}
        for path, x in self.inputs:
            by_input.setdefault((id(x), path.rpartition(".")[0]), []).append(path)
        sets = {tuple(paths) for paths in by_input.values()}
        for paths in sorted(sets):
            calls = [sum(path in other for other in sets) for path in paths]
            if len(paths) > 1 and len(set(paths)) == len(paths) and max(calls) == 1:
                yield list(paths)


def _watch(model: PreTrainedModel, probe: Tensor) -> _Reads:
    """Runs one pass; tensors are told apart by identity, so all of them are held until it is over."""
    reads = _Reads()
    hooks = []

    def gave(path: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            reads.norms.setdefault(path, []).append(output)
            reads.readers.setdefault(path, [])

        return hook

    def read(path: str, module: nn.Module) -> Any:
        def hook(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if not arguments or not isinstance(arguments[0], Tensor):
                return
            x = arguments[0]
            if isinstance(module, nn.Linear):
                reads.inputs.append((path, x))
            source = next((norm for norm, outputs in reads.norms.items() if any(x is each for each in outputs)), None)
            if source is None:
                reads.others.add(path)
            elif path not in reads.readers[source]:
                reads.readers[source].append(path)

        return hook

    for path, module in model.named_modules():
        if _is_norm(module):
            hooks.append(module.register_forward_hook(gave(path)))
        elif next(module.parameters(recurse=False), None) is not None:
            hooks.append(module.register_forward_pre_hook(read(path, module)))
    try:
        model(input_ids=probe, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return reads


def _is_norm(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and isinstance(weight, Tensor) and weight.ndim == 1


def _unfoldable(model: PreTrainedModel, path: str, reads: _Reads) -> str:
    """Why a gain cannot go into what follows; "" when it can."""
    norm = model.get_submodule(path)
    readers = [(name, model.get_submodule(name)) for name in reads.readers[path]]
    head = model.get_output_embeddings()
    if getattr(norm, "bias", None) is not None:
        return "it has a bias, which cannot be folded"
    if not readers:
        return "no layer reads it directly"
    if any(name in reads.others for name, _ in readers):
        return "what reads it reads other tensors, too"
    if len(readers) == 1 and isinstance(readers[0][1], ShortConvolution):
        return ""
    for name, module in readers:
        if isinstance(module, TernaryLinear):
            return f"{name} would not stay ternary"
        if type(module) is not nn.Linear:
            return f"{name} is a {type(module).__name__}"
        if module is head and getattr(model.config, "tie_word_embeddings", False):
            return f"{name} is tied to the embedding"
    return ""


def _fold(model: PreTrainedModel, path: str, readers: Sequence[str]) -> Callable[[], None]:
    norm = model.get_submodule(path)
    assert isinstance(norm.weight, Tensor)
    gain = norm.weight.clone()
    saved = [(norm.weight, gain)]
    for name in readers:
        module = model.get_submodule(name)
        weight = module.weight
        assert isinstance(weight, Tensor)
        saved.append((weight, weight.clone()))
        weight.mul_(gain[:, None] if isinstance(module, ShortConvolution) else gain[None, :])
    norm.weight.fill_(1.0)

    @torch.no_grad()
    def back() -> None:
        for tensor, value in saved:
            tensor.copy_(value)

    return back


def _unjoinable(modules: Sequence[nn.Module]) -> str:
    kinds = {type(module) for module in modules}
    if len(kinds) != 1 or not kinds <= {nn.Linear, TernaryLinear}:
        return f"layers of different kinds: {', '.join(sorted(kind.__name__ for kind in kinds))}"
    linears = [module for module in modules if isinstance(module, nn.Linear)]
    if len({linear.bias is None for linear in linears}) != 1 or len({linear.weight.dtype for linear in linears}) != 1:
        return "only some have a bias, or they are of different types"
    ternary = [linear for linear in linears if isinstance(linear, TernaryLinear)]
    if ternary and (len({(t.layout, t.activation_bits, t.blend, t.frozen) for t in ternary}) != 1):
        return "they are quantized differently"
    if ternary and not ternary[0].frozen:
        return "they still train"
    if ternary and ternary[0].layout.group_size == PER_TENSOR:
        try:
            codes_of(torch.cat([t.weight for t in ternary]), _by_row(ternary[0].layout))
        except ValueError:
            return "their scale cannot be said row by row"
    return ""


def _by_row(layout: Layout) -> Layout:
    return Layout(PER_ROW, layout.levels) if layout.group_size == PER_TENSOR else layout


def _join(linears: Sequence[nn.Linear]) -> list[ProjectionPart]:
    """Parts of one joined layer, the first of which holds it."""
    sizes = [linear.out_features for linear in linears]
    first = linears[0]
    joined = nn.Linear(first.in_features, sum(sizes), bias=False, device="meta")
    joined.weight = nn.Parameter(torch.cat([linear.weight for linear in linears]), first.weight.requires_grad)
    if first.bias is not None:
        joined.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), first.bias.requires_grad)
    if isinstance(first, TernaryLinear):
        ternary = TernaryLinear.from_linear(
            joined, _by_row(first.layout), activation_bits=first.activation_bits, blend=first.blend
        )
        ternary.frozen = True
    joint = Joint(joined, sizes)
    return [ProjectionPart(joint, place, holds=place == 0).eval() for place in range(len(sizes))]


def _replace(parent: nn.Module, name: str, module: nn.Module) -> Callable[[], None]:
    before = getattr(parent, name)
    setattr(parent, name, module)
    return lambda: setattr(parent, name, before)


def _finished(
    found: Fused, model: PreTrainedModel, probe: Tensor, before: tuple[Tensor, Tensor], undo: list[Callable[[], None]]
) -> Fused:
    after = _logits(model, probe)
    found.difference, found.difference_rounded = _largest(after[0], before[0]), _largest(after[1], before[1])

    def back() -> None:
        for each in reversed(undo):
            each()

    found.undo = back
    return found


def _logits(model: PreTrainedModel, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Logits without and with the rounding of activations."""
    with _unrounded(model) as changed:
        exact = model(input_ids=probe, use_cache=False).logits.float()
    return exact, model(input_ids=probe, use_cache=False).logits.float() if changed else exact


@contextmanager
def _unrounded(model: nn.Module) -> Iterator[bool]:
    """Within, ternary layers take their inputs as they are; gives whether that changes anything."""
    layers = [(layer, layer.activation_bits) for layer in ternary_linears(model).values()]
    try:
        for layer, _ in layers:
            layer.activation_bits = 0
        yield any(bits for _, bits in layers)
    finally:
        for layer, bits in layers:
            layer.activation_bits = bits


def _nothing() -> None:
    """There is nothing to put back."""


def _largest(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())
