"""Did the merge break halting or the gate? (failure G1 of the premortem)

A merged model whose weights look fine can still always halt, never halt, or close its gate. The statistics
that the parents give on the same tokens are the yardstick: the champion's have to lie inside their range.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel


def recursion_statistics(model: PreTrainedModel, input_ids: Tensor) -> dict[str, float]:
    """Halting and gate statistics on [B, T] tokens; empty for a model that has neither."""
    import torch

    if "output_statistics" not in inspect.signature(model.forward).parameters:
        return {}
    with torch.inference_mode():
        output = model(input_ids=input_ids.to(model.device), use_cache=False, output_statistics=True)
    return {name: float(value) for name, value in sorted((output.statistics or {}).items())}


def outside_range(
    champion: Mapping[str, float], parents: Sequence[Mapping[str, float]], *, slack: float = 0.1
) -> dict[str, tuple[float, float, float]]:
    """The champion's statistics that leave the parents' range, as (value, lowest, highest).

    Args:
        champion: its statistics by name.
        parents: those of each parent.
        slack: how far outside is still inside: a fraction of the highest parent's magnitude.

    Returns:
        By name; empty if all lie inside.
    """
    found = {}
    for name, value in champion.items():
        low, high = min(parent[name] for parent in parents), max(parent[name] for parent in parents)
        room = slack * max(abs(low), abs(high))
        if not low - room <= value <= high + room:
            found[name] = (value, low, high)
    return found
