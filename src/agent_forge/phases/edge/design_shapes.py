"""Depth of recursion and window of the attention, offered to the search where the model has them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import shaped
from agent_forge.phases.edge.design_trial import Bench


def shapes(bench: Bench) -> tuple[dict[str, tuple[int | None, ...]], str]:
    """Values of the genes ``recursion_steps`` and ``window`` beside what is configured, and what to say of them.

    A window is offered only if half of it changes what the model computes of the longest text so far: questions are
    short, and where all of them fit into half a window that gene would only make designs look different.

    Args:
        bench: the agent; its memory holds what it was asked.
    """
    genes: dict[str, tuple[int | None, ...]] = {}
    said = []
    steps, window = (int(getattr(bench.model.config, name, 0) or 0) for name in ("recursion_steps", "sliding_window"))
    if steps > 1:
        genes["recursion_steps"] = (None, *range(1, steps))
        said.append(f"recursion of 1 to {steps} steps is searched")
    if window > 1:
        ids = _longest(bench)
        if _differs(bench, ids, window // 2):
            genes["window"] = (None, window // 2)
            said.append(f"windows of {window} and {window // 2} tokens are searched")
        else:
            said.append(
                f"half of the window of {window} tokens changes nothing in texts of at most {ids.shape[1]} tokens, "
                "so no other is searched"
            )
    return genes, "; ".join(said) or "this model has neither recursion nor a window"


def _longest(bench: Bench) -> Tensor:
    """[1, T] tokens of the longest question with its steps."""
    texts = (f"{key[0]} {' '.join(_turns(key, bench))}" for key in bench.memo)
    tokens = max((list(bench.tokenizer(text)["input_ids"]) for text in texts), key=len, default=[])
    return torch.tensor([tokens], device=bench.model.device)


def _turns(key: tuple[object, ...], bench: Bench) -> Iterable[str]:
    return (turn.text for turn in bench.memo[key].transcript.turns)


@torch.inference_mode()
def _differs(bench: Bench, ids: Tensor, window: int) -> bool:
    """Whether logits of a text differ with this window."""
    if not ids.numel():
        return False
    logits = bench.model(ids).logits
    with shaped(bench.model, AgentDesign(window=window)):
        return not torch.equal(bench.model(ids).logits, logits)
