"""How equal a graph and the model are that it was made from.

The model continues prompts greedily, token by token with its cache; the graph reads the same tokens and says what it
would have said. A model that rounds its inputs to int8 turns a difference in the seventh digit into one of a whole
step wherever a number stands at the middle between two steps, and passes that on. So the figure stands beside two
others: the same difference between two ways of running the model in torch (token by token, and at once), and how
many tokens are within `TOLERANCE` when graph and model are given the same past.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.model.generation import chat_prompt
from agent_forge.model.ternary import ternary_linears
from agent_forge.phases.edge.onnx_session import OnnxSession

TOLERANCE = 1e-3
TOKENS = 200
_LONGEST = 64
_MOST_PROMPTS = 100


def parity(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, tokens: int = TOKENS
) -> dict[str, Any]:
    """Compares a model with its graph over greedily decoded tokens.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        folder: the export.
        tokens: to compare.

    Returns:
        ``compared_tokens``, ``equal_tokens`` (same likeliest token), ``max_logit_difference``, and where inputs are
        rounded ``torch_max_logit_difference`` (torch against torch, all tokens at once).
    """
    session = OnnxSession(folder, threads=1)
    stop = set(session.manifest["tokens"]["eos"])
    compared, equal, largest, own = 0, 0, 0.0, 0.0
    for prompt in prompts(tokenizer):
        said, theirs = _greedy(model, prompt, min(_LONGEST, tokens - compared), stop)
        ours = _read(session, prompt, said)
        equal += int((ours.argmax(-1) == theirs.argmax(-1)).sum())
        compared += len(theirs)
        largest = max(largest, float((ours - theirs).abs().max()))
        own = max(own, _at_once(model, prompt, said, theirs))
        if compared >= tokens:
            break
    found = {"compared_tokens": compared, "equal_tokens": equal, "max_logit_difference": largest}
    rounds = any(layer.activation_bits for layer in ternary_linears(model).values())
    return found | ({"torch_max_logit_difference": own} if rounds else {})


def prompts(tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """Questions, in the words of a chat where the tokenizer has a template."""
    for number in range(_MOST_PROMPTS):
        text = f"What is {17 + 13 * number} plus {5 + 7 * number}?"
        if tokenizer.chat_template:
            yield chat_prompt(tokenizer, [{"role": "user", "content": text}])
        else:
            start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
            yield start + list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _greedy(model: PreTrainedModel, prompt: Sequence[int], count: int, stop: set[int]) -> tuple[list[int], Tensor]:
    """Tokens that the model says, and the logits [n, vocab] of each, that of a stop token included."""
    own: Any = getattr(model, "make_cache", None)
    cache = DynamicCache(config=model.config) if own is None else own()
    tokens, said, logits = list(prompt), list[int](), []
    with torch.inference_mode():
        for _ in range(count):
            output = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache = output.past_key_values
            logits.append(output.logits[0, -1].float())
            said.append(int(logits[-1].argmax()))
            if said[-1] in stop:
                break
            tokens = said[-1:]
    return said, torch.stack(logits)


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
