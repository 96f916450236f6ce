"""Which layer a tensor belongs to, told by its name alone: for checkpoints that are never built as models."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LAYER = re.compile(r"(?:^|\.)(?:layers|blocks|h|block|layer)\.(\d+)\.")


def layer_of(name: str) -> int | None:
    """3 for ``model.layers.3.mlp.up_proj.weight``; None outside the stack of layers."""
    found = _LAYER.search(name)
    return int(found.group(1)) if found else None


def at_layer(name: str, layer: int) -> str:
    """The name of the same tensor in another layer.

    Raises:
        ValueError: the name belongs to no layer.
    """
    found = _LAYER.search(name)
    if not found:
        raise ValueError(f"{name!r} belongs to no layer")
    return f"{name[: found.start(1)]}{layer}{name[found.end(1) :]}"


def number_of_layers(names: Iterable[str]) -> int:
    """One more than the highest layer; 0 if no tensor belongs to one."""
    return max((layer for name in names if (layer := layer_of(name)) is not None), default=-1) + 1


def is_output_of_layer(name: str) -> bool:
    """True for the matrices that write into the residual stream: attention's and the MLP's last ones.

    In a pre-norm network, multiplying them by s equals scaling the stream by 1/s before the layer: the
    norms cancel a common factor. That is how join scales become weights (see `dfs`).
    """
    parts = name.split(".")
    return any(part in _OUTPUTS for part in parts) and layer_of(name) is not None


_OUTPUTS = frozenset({"o_proj", "down_proj", "out_proj", "c_proj", "dense_4h_to_h", "wo", "fc2", "w2"})
