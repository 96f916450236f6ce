"""How equal a graph and the model are that it was made from.

The model continues prompts greedily, token by token with its cache; the graph reads the same tokens and says what it
would have said. A model that rounds its inputs to int8 turns a difference in the seventh digit into one of a whole
step wherever a number stands at the middle between two steps, and passes that on. So the figure stands beside two
others: the same difference between two ways of running the model in torch (token by token, and at once), and how
many tokens are within `TOLERANCE` when graph and model are given the same past.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model.generation import chat_prompt
from agent_forge.model.ternary import ternary_linears
from agent_forge.phases.edge.onnx_session import OnnxSession

Feeds: TypeAlias = dict[str, NDArray[Any]]
TOLERANCE = 1e-3
TOKENS = 200
_LONGEST = 64
_MOST_PROMPTS = 100


def parity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    tokens: int = TOKENS,
    *,
    experts: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Compares a model with its graph over greedily decoded tokens.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        folder: the export.
        tokens: to compare.
        experts: what the graph is given for those that the model computes with, [1, N]; None = none.

    Returns:
        ``compared_tokens``, ``equal_tokens`` (same likeliest token), ``max_logit_difference``; and where inputs are
        rounded ``torch_max_logit_difference`` (torch against torch, all tokens at once), and of the tokens read from
        the same past ``same_past_within`` (share within `TOLERANCE`) and ``same_past_median`` (of the differences).
    """
    session = OnnxSession(folder, threads=1)
    session.experts = session.experts if experts is None else experts
    stop = set(session.manifest["tokens"]["eos"])
    compared, equal, largest, own, near = 0, 0, 0.0, 0.0, list[float]()
    rounds = any(layer.activation_bits for layer in ternary_linears(model).values())
    for prompt in prompts(tokenizer):
        said, theirs, pasts = _greedy(model, prompt, min(_LONGEST, tokens - compared), stop, session.states)
        ours = _read(session, prompt, said)
        equal += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        compared += len(theirs)
        largest = max(largest, float((ours - theirs).abs().max()))
        if rounds:
            own = max(own, _at_once(model, prompt, said, theirs))
            near += _from_same_past(session, said, theirs, pasts)
        if compared >= tokens:
            break
    found = {"compared_tokens": compared, "equal_tokens": equal, "max_logit_difference": largest}
    if rounds and near:
        found["torch_max_logit_difference"] = own
        found["same_past_within"] = sum(difference <= TOLERANCE for difference in near) / len(near)
        found["same_past_median"] = statistics.median(near)
    return found


def prompts(tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Questions, in the words of a chat where the tokenizer has a template."""
    for number in range(_MOST_PROMPTS):
        text = f"What is {17 + 13 * number} plus {5 + 7 * number}?"
        if tokenizer.chat_template:
            yield chat_prompt(tokenizer, [{"role": "user", "content": text}])
        else:
            start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
            yield start + list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _greedy(
    model: PreTrainedModel, prompt: Sequence[int], count: int, stop: set[int], states: Sequence[Mapping[str, Any]]
) -> tuple[list[int], Tensor, list[Feeds]]:
    """Tokens that the model says, the logits [n, vocab] of each (of a stop token, too), and the past before each."""
    own: Any = getattr(model, "make_cache", None)
    cache = DynamicCache(config=model.config) if own is None else own()
    tokens, said, logits, pasts = list(prompt), list[int](), [], list[Feeds]()
    with torch.inference_mode():
        for _ in range(count):
            if said:
                pasts.append(_past(cache, states))
            output = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            logits.append(output.logits[0, -1].float())
            said.append(int(logits[-1].argmax()))
            if said[-1] in stop:
                break
            tokens = said[-1:]
    return said, torch.stack(logits), pasts


def _past(cache: Any, states: Sequence[Mapping[str, Any]]) -> Feeds:
    """What torch's cache holds, as the states of the graph."""
    found: Feeds = {}
    for state in states:
        kind, *place = state["input"].split(".")
        if kind == "past_positions":
            layout = getattr(cache, "layout", None)
            positions = torch.arange(cache.get_seq_length())[None] if layout is None else layout.positions
            found[state["input"]] = positions.numpy().copy()
            continue
        slot = cache.layers[int(place[0])]
        if kind == "past_key_values":
            tensor = slot.keys if place[1] == "key" else slot.values
            tensor = tensor[:, :, : getattr(slot, "length", tensor.shape[2])]
        elif kind == "past_convolution":
            tensor = slot.states[f"{place[1]}_conv"]
        else:
            tensor = slot.states["memory"][0]
        found[state["input"]] = tensor.float().numpy().copy()
    return found


def _from_same_past(session: OnnxSession, said: Sequence[int], logits: Tensor, pasts: Sequence[Feeds]) -> list[float]:
    """Largest differences of the logits after each token, graph and model having remembered the very same."""
    found = []
    for token, expected, past in zip(said[:-1], logits[1:], pasts, strict=True):
        session.past = past
        found.append(float((torch.from_numpy(session.step([token])) - expected).abs().max()))
    return found


def _read(session: OnnxSession, prompt: Sequence[int], said: Sequence[int]) -> Tensor:
    """The graph's logits for each token of ``said``, which follows ``prompt``."""
    session.reset()
    rows = [session.step(prompt)] + [session.step([token]) for token in said[:-1]]
    return torch.from_numpy(np.stack(rows))


def _at_once(model: PreTrainedModel, prompt: Sequence[int], said: Sequence[int], logits: Tensor) -> float:
    """Largest difference to the model's own logits when it reads all tokens in one pass."""
    with torch.inference_mode():
        whole = model(torch.tensor([[*prompt, *said[:-1]]]), use_cache=False).logits[0, len(prompt) - 1 :].float()
    return float((whole - logits).abs().max())
