"""Frankenmerge: whole layers from different parents.

Source: the practice known as "passthrough" merging (Goddard et al. 2024, "Arcee's MergeKit", arXiv:2403.13257,
section 3.3).

What differs:
1. A layer may also come from a *blend* (the merge that the other methods make), so that one genotype can
   say "layers 0–1 from parent B, the rest blended".
2. Names and shapes stay those of the parents: each layer keeps its place. Changing place is `dfs`.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_forge.phases.evomerge.layer_names import layer_of

BLEND = -1


def frankenmerge(name: str, sources: Sequence[int], *, outside: int = BLEND) -> int:
    """Whose tensor of that name is taken.

    Args:
        name: a tensor's name.
        sources: per layer a parent's number, or `BLEND`.
        outside: the same for tensors outside the layers (embeddings, head, last norm).

    Returns:
        A parent's number, or `BLEND`.

    Raises:
        ValueError: the name lies in a layer that ``sources`` does not cover.
    """
    layer = layer_of(name)
    if layer is None:
        return outside
    if layer >= len(sources):
        raise ValueError(f"{name!r} lies in layer {layer}, but sources name {len(sources)} layers")
    return sources[layer]
