"""How fast a model answers one prompt: seconds to the first token, then tokens a second.

Whatever runs the model is a `Step`. Nothing here imports torch: a process that measures another runtime stays without.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Step: TypeAlias = Callable[[Sequence[int], bool], int]
"""Takes tokens, and whether a text begins with them; gives the likeliest next token."""


def decoding_speed(step: Step, ids: Sequence[int], tokens: int, repeats: int) -> tuple[float, float]:
    """Median seconds to the first token, and median tokens a second after it; one warm-up goes before.

    Args:
        step: of the model.
        ids: the prompt.
        tokens: after the first, at least 1.
        repeats: of all, at least 1.
    """
    first, rates = [], []
    for number in range(repeats + 1):
        start = time.perf_counter()
        token = step(ids, True)
        between = time.perf_counter()
        for _ in range(tokens):
            token = step([token], False)
        end = time.perf_counter()
        if number:
            first.append(between - start)
            rates.append(tokens / (end - between))
    return median(first), median(rates)


def cached_step(model: PreTrainedModel) -> Step:
    """Greedy decoding with a model's own cache, batch 1."""
    import torch

    device = next(model.parameters()).device
    cache: Any = None

    @torch.inference_mode()
    def step(given: Sequence[int], begins: bool) -> int:
        nonlocal cache
        past = {} if begins else {"past_key_values": cache}
        output = model(input_ids=torch.tensor([given], device=device), use_cache=True, logits_to_keep=1, **past)
        cache = output.past_key_values
        return int(output.logits[0, -1].argmax())

    return step
