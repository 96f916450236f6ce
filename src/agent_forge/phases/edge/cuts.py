"""Cutting heads, channels and layers out of a model, and putting them back.

A cut changes modules and configuration together, so that the model that is left is one that its own configuration
describes: any ``AutoModel`` builds it. A cut tensor keeps its other values bit for bit; a ternary one keeps its γ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from agent_forge.model.ternary import TernaryLinear, codes_of

Kind: TypeAlias = Literal["channels", "recursion_channels", "heads", "layers"]
KINDS: tuple[Kind, ...] = ("channels", "recursion_channels", "heads", "layers")
_WIDTHS = {"channels": "intermediate_size", "recursion_channels": "recursion_intermediate_size"}


@dataclass(frozen=True)
class Cut:
    """What is taken out.

    Attributes:
        kind: of units.
        units: by path of the module that holds them; for heads a unit is a key-value head with all its query heads.
    """

    kind: Kind
    units: Mapping[str, tuple[int, ...]]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` is the inverse."""
        return {"kind": self.kind, "units": {path: list(units) for path, units in self.units.items()}}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Cut:
        """The inverse of `to_json`."""
        return cls(value["kind"], {path: tuple(units) for path, units in value["units"].items()})


class CannotCut(ValueError):
    """A model that the cut does not fit; says why."""


@dataclass(frozen=True)
class Place:
    """One module with units to cut: an attention or a feed-forward network.

    Attributes:
        rows: linear layers whose outputs are the units, with the columns of one unit.
        columns: the linear layer whose inputs they are, with the same.
        count: units now.
    """

    rows: tuple[tuple[nn.Linear, int], ...]
    columns: tuple[nn.Linear, int]
    count: int


@dataclass
class Anatomy:
    """Where the parts of a model are.

    Attributes:
        layers_path: path of the list of layers; empty where none was found.
        places: by kind, then by path.
        reasons: why a kind cannot be cut at all.
    """

    layers_path: str = ""
    places: dict[Kind, dict[str, Place]] = field(default_factory=dict)
    reasons: dict[Kind, str] = field(default_factory=dict)


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Finds the layers, the attentions and the feed-forward networks of ``model`` by the roles of their parts."""
    found = Anatomy()
    config = model.config
    count = getattr(config, "num_hidden_layers", None)
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count and not found.layers_path:
            found.layers_path = path
    inside = f"{found.layers_path}."
    for path, module in model.named_modules():
        linears = {name: child for name, child in module.named_children() if isinstance(child, nn.Linear)}
        if {"gate_proj", "up_proj", "down_proj"} <= set(linears):
            kind: Kind = "channels" if path.startswith(inside) else "recursion_channels"
            down = linears["down_proj"]
            rows = ((linears["gate_proj"], 1), (linears["up_proj"], 1))
            found.places.setdefault(kind, {})[path] = Place(rows, (down, 1), down.in_features)
        elif {"q_proj", "k_proj", "v_proj", "o_proj"} <= set(linears):
            place = _attention(config, linears)
            if place is not None:
                found.places.setdefault("heads", {})[path] = place
    _give_reasons(found, config)
    return found


def _attention(config: Any, linears: Mapping[str, nn.Linear]) -> Place | None:
    pairs = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    if linears["k_proj"].out_features % pairs or linears["q_proj"].out_features % pairs:
        return None
    key, query = linears["k_proj"].out_features // pairs, linears["q_proj"].out_features // pairs
    rows = ((linears["q_proj"], query), (linears["k_proj"], key), (linears["v_proj"], key))
    return Place(rows, (linears["o_proj"], query), pairs)


def _give_reasons(found: Anatomy, config: Any) -> None:
    name = type(config).__name__
    for kind in ("channels", "heads"):
        if not found.places.get(kind):
            parts = "gate, up and down" if kind == "channels" else "query, key, value and output"
            found.reasons[kind] = f"no module of this model has {parts} projections of its own"
    if not found.places.get("recursion_channels"):
        found.reasons["recursion_channels"] = "the model has no shared block"
    if not found.layers_path:
        found.reasons["layers"] = "no list of layers was found"
    for kind, width in _WIDTHS.items():
        if kind not in found.reasons and not hasattr(config, width):
            found.reasons[kind] = f"{name} has no {width}"  # type: ignore[index]
    if "heads" not in found.reasons and not hasattr(config, "head_dim"):
        found.reasons["heads"] = f"{name} cannot say how wide a head is when there are fewer of them (head_dim)"


def removable_layers(model: PreTrainedModel, where: Anatomy) -> tuple[list[int], str]:
    """Layers that can go alone, and why others cannot."""
    if "layers" in where.reasons:
        return [], where.reasons["layers"]
    count = int(model.config.num_hidden_layers)
    left = list(range(count)) if count > 1 else []
    reason = "" if left else "the last layer stays"
    if getattr(model.config, "value_residual", False) and left:
        left, reason = left[1:], "layer 0 gives the values that all others mix in"
    if getattr(model.config, "memory", "off") != "off" and int(model.config.memory_every) > 1:
        left, reason = [n for n in left if n == 0], "which layers have a memory is counted from the last"
    return left, reason


@torch.no_grad()
def apply_cut(model: PreTrainedModel, cut: Cut) -> Callable[[], None]:
    """Takes the units out, in place.

    Returns:
        A function that puts them back, bit for bit.

    Raises:
        CannotCut: the model would be none that its configuration can describe; it is then as it was.
    """
    undo: list[Callable[[], None]] = []

    def back() -> None:
        while undo:
            undo.pop()()

    try:
        if cut.kind == "layers":
            _cut_layers(model, cut, undo)
        else:
            _cut_units(model, cut, undo)
        _check(model)
    except CannotCut:
        back()
        raise
    return back


def _cut_units(model: PreTrainedModel, cut: Cut, undo: list[Callable[[], None]]) -> None:
    where = anatomy(model)
    if cut.kind in where.reasons:
        raise CannotCut(where.reasons[cut.kind])
    places = where.places[cut.kind]
    sizes = {len(set(units)) for units in cut.units.values()}
    if set(cut.units) != set(places) or len(sizes) != 1:
        raise CannotCut(
            f"{cut.kind} must be cut evenly from all of {len(places)} modules, got {sizes} from {len(cut.units)}"
        )
    removed = sizes.pop()
    for path, place in places.items():
        out = set(cut.units[path])
        if not out <= set(range(place.count)) or removed >= place.count:
            raise CannotCut(f"{path} has {place.count} units, {sorted(out)} cannot go")
        kept = [unit for unit in range(place.count) if unit not in out]
        for linear, width in place.rows:
            _narrow(linear, 0, _expanded(kept, width), undo)
        _narrow(place.columns[0], 1, _expanded(kept, place.columns[1]), undo)
    config = model.config
    if cut.kind == "heads":
        place = next(iter(places.values()))
        groups = int(config.num_attention_heads) // place.count
        _set(config, "head_dim", place.rows[1][1], undo)
        _set(config, "num_key_value_heads", place.count - removed, undo)
        _set(config, "num_attention_heads", (place.count - removed) * groups, undo)
    else:
        _set(config, _WIDTHS[cut.kind], next(iter(places.values())).count - removed, undo)


def _expanded(units: Sequence[int], width: int) -> Tensor:
    return (torch.tensor(units)[:, None] * width + torch.arange(width)).flatten()


def _narrow(linear: nn.Linear, axis: int, kept: Tensor, undo: list[Callable[[], None]]) -> None:
    """Keeps some rows (axis 0) or columns (axis 1) of a linear layer."""
    weight, bias = linear.weight, linear.bias
    if isinstance(linear, TernaryLinear):
        if not linear.frozen:
            raise CannotCut("a ternary layer that still trains would change its scale with every cut; freeze it first")
        if axis == 1 and linear.layout.group_size > 0:
            raise CannotCut(
                f"scales are shared by groups of {linear.layout.group_size} columns, which a cut would break"
            )
    names = ("in_features", "out_features")
    sizes = {name: getattr(linear, name) for name in names}

    def back() -> None:
        linear.weight, linear.bias = weight, bias
        for name, size in sizes.items():
            setattr(linear, name, size)

    undo.append(back)
    index = kept.to(weight.device)
    linear.weight = nn.Parameter(weight.index_select(axis, index).contiguous(), weight.requires_grad)
    if axis == 0 and bias is not None:
        linear.bias = nn.Parameter(bias.index_select(0, index), bias.requires_grad)
    linear.out_features, linear.in_features = linear.weight.shape
    if isinstance(linear, TernaryLinear):
        try:
            codes_of(linear.weight, linear.layout)
        except ValueError as error:
            raise CannotCut(
                f"what is left of a {linear.layout} layer would no longer show its scale: {error}"
            ) from None


def _cut_layers(model: PreTrainedModel, cut: Cut, undo: list[Callable[[], None]]) -> None:
    where = anatomy(model)
    allowed, reason = removable_layers(model, where)
    units = cut.units.get(where.layers_path)
    if units is None or len(cut.units) != 1 or len(set(units)) != 1 or units[0] not in allowed:
        raise CannotCut(f"layer {units} of {where.layers_path!r} cannot go: {reason or f'it must be one of {allowed}'}")
    layers = model.get_submodule(where.layers_path)
    assert isinstance(layers, nn.ModuleList)
    kept = [layer for number, layer in enumerate(layers) if number != units[0]]
    before = list(layers)

    def back() -> None:
        _refill(layers, before)

    undo.append(back)
    _refill(layers, kept)
    config = model.config
    count = len(kept)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        _set(config, "layer_types", [each for number, each in enumerate(kinds) if number != units[0]], undo)
    recursion = getattr(model, "recursion", None)
    if recursion is not None:
        _set(recursion, "slot", count, undo)
    _set(config, "num_hidden_layers", count, undo)


def _refill(layers: nn.ModuleList, blocks: Sequence[nn.Module]) -> None:
    """Puts blocks into the list, and tells each its number: caches are addressed by it."""
    del layers[:]
    for number, block in enumerate(blocks):
        layers.append(block)
        for module in block.modules():
            for name in ("index", "layer_idx"):
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, number)


def _set(owner: Any, name: str, value: Any, undo: list[Callable[[], None]]) -> None:
    before = getattr(owner, name)
    undo.append(lambda: setattr(owner, name, before))
    setattr(owner, name, value)


def _check(model: PreTrainedModel) -> None:
    """A model built from the configuration has tensors of the same names and shapes."""
    try:
        with torch.device("meta"):
            built = AutoModelForCausalLM.from_config(model.config)
    except (ValueError, TypeError) as error:
        raise CannotCut(f"{type(model.config).__name__} does not allow it: {error}") from error
    wanted = {name: tuple(p.shape) for name, p in built.named_parameters()}
    found = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if wanted != found:
        name = sorted(set(wanted.items()) ^ set(found.items()))[0][0]
        raise CannotCut(
            f"{type(model.config).__name__} would describe {name} as {wanted.get(name)}, but it is {found.get(name)}"
        )
