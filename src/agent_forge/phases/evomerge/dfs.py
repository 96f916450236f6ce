"""DFS: merging in data-flow space, i.e. which layer follows which (not depth-first search).

Source: Akiba et al. 2024, "Evolutionary optimization of model merging recipes", arXiv:2403.13187, section 3.2.

What differs:
1. The paper scales the stream at a join by a learned matrix W_ij that lives outside the network. Here each
   position has one scale that multiplies the matrices that write into the stream; with pre-norm layers this
   reaches the same functions (a norm cancels a common factor of the stream), and the result is an ordinary
   checkpoint with no code of its own.
2. By default the number of positions is the parents' number of layers, so names and shapes stay theirs: a
   repeated layer takes another one's place. More positions are allowed where the caller can change the depth.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_forge.phases.evomerge.layer_names import at_layer, is_output_of_layer, layer_of


def dfs(name: str, path: Sequence[int], scales: Sequence[float]) -> tuple[str, float]:
    """Where the tensor of that name comes from in the re-ordered stack, and its factor.

    Args:
        name: a tensor's name in the *new* stack.
        path: per position of the new stack the layer of the old one.
        scales: per position the factor of the layer's contribution to the stream.

    Returns:
        The name in the old stack, and the factor to multiply with (1 for all but the layer's outputs).

    Raises:
        ValueError: a position that the path does not cover, or another number of scales than positions.
    """
    if len(path) != len(scales):
        raise ValueError(f"{len(path)} positions, but {len(scales)} join scales")
    position = layer_of(name)
    if position is None:
        return name, 1.0
    if position >= len(path):
        raise ValueError(f"{name!r} lies at position {position}, but the path has {len(path)}")
    return at_layer(name, path[position]), float(scales[position]) if is_output_of_layer(name) else 1.0
