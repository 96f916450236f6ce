"""Decoding token by token, for Cognate and any other causal language model of `transformers`.

``model.generate`` is there for everything that it can do; this is the short way for one prompt, without
its per-token bookkeeping: one cached forward, one choice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent_forge.contract import END_THINK, THINK
from agent_forge.model.decoder import Decoder, empty_cache
from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think, ThoughtRule, thought_rule


def generate_tokens(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase | None,
    prompt_ids: Sequence[int] | Tensor,
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
    seed: int | None = None,
    stop_ids: Collection[int] | None = None,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
) -> Iterator[int]:
    """Continues a prompt.

    Args:
        model: in evaluation mode.
        tokenizer: asked for its thought tokens, and for its end token when ``stop_ids`` is None; may be None.
        prompt_ids: at least one token.
        max_tokens: at most so many tokens are given, thoughts and their marks included.
        temperature: 0 = always the likeliest token.
        top_p: samples from the smallest set of tokens with at least this probability (0-1].
        generator: source of randomness on the CPU; ``seed`` makes one if None.
        seed: of the generator; 0 if both are None.
        stop_ids: tokens that end the text; None = the tokenizer's end token.
        think: True puts ``<think>`` in front of the model's words, False keeps it from ever thinking, "auto" leaves
            it to the model. Models without thought tokens never think.
        thought_budget: ``</think>`` is forced after so many tokens of a thought.

    Yields:
        Token ids, those of thoughts and their marks included; the stop token itself is not given.

    Raises:
        ValueError: an empty prompt, a negative temperature or budget, a ``top_p`` outside (0, 1], or ``think`` is True
            and the tokenizer has no thought tokens.
    """
    ids = torch.as_tensor(prompt_ids, dtype=torch.long, device=model.device).reshape(1, -1)
    if ids.shape[1] == 0:
        raise ValueError("the prompt has no tokens; give at least the start token")
    if temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(f"temperature {temperature} must be at least 0, top_p {top_p} in (0, 1]")
    if generator is None and temperature > 0:
        generator = torch.Generator().manual_seed(0 if seed is None else seed)
    stop = set(_end_ids(tokenizer) if stop_ids is None else stop_ids)
    rule = thought_rule(tokenizer, stop, think, thought_budget)
    return _decode(model, ids, max_tokens, temperature, top_p, generator, stop, rule)


Kind: TypeAlias = Literal["said", "thought"]


def spoken(
    tokenizer: PreTrainedTokenizerBase, tokens: Iterable[int], seen: list[int] | None = None
) -> Iterator[tuple[Kind, str]]:
    """The words of a stream of tokens: what is said piece by piece, a thought as a whole when it has ended.

    Args:
        tokenizer: of the model.
        tokens: of `generate_tokens`.
        seen: gets every token.
    """
    opening, closing = map(tokenizer.convert_tokens_to_ids, (THINK, END_THINK))
    marks = () if opening == closing else (opening, closing)  # equal: both unknown
    part: list[int] = []
    inside, shown = False, ""
    for token in tokens:
        if seen is not None:
            seen.append(token)
        if token in marks:
            if inside:
                yield "thought", str(tokenizer.decode(part, skip_special_tokens=True))
            inside, part, shown = token == opening, [], ""
            continue
        part.append(token)
        text = "\ufffd" if inside else str(tokenizer.decode(part, skip_special_tokens=True))
        if not text.endswith("\ufffd"):  # else a character whose bytes are not complete yet
            yield "said", text[len(shown) :]
            shown = text
    if inside and part:
        yield "thought", str(tokenizer.decode(part, skip_special_tokens=True))


def chat_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Token ids of a conversation up to where the assistant speaks.

    Args:
        tokenizer: with a chat template.
        messages: ``{"role": "user" | "assistant" | "system", "content": text}``, in order.

    Returns:
        The prompt for `generate_tokens`.
    """
    text = tokenizer.apply_chat_template(
        [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
    )
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def choose_token(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """One token from logits [vocab]: the likeliest at temperature 0, else a draw from the nucleus.

    Holtzman et al. 2020, arXiv:1904.09751, section 3.1.
    """
    if temperature == 0:
        return int(logits.argmax())
    probability = torch.softmax(logits.float().cpu() / temperature, -1)
    if top_p < 1:
        ordered, order = probability.sort(descending=True)
        # a token stays if the tokens before it do not reach top_p yet: the first always stays
        kept = ordered.cumsum(0) - ordered < top_p
        return int(order[torch.multinomial(ordered * kept, 1, generator=generator)])
    return int(torch.multinomial(probability, 1, generator=generator))


def _decode(
    model: Decoder,
    ids: Tensor,
    max_tokens: int,
    temperature: float,
    top_p: float,
    generator: torch.Generator | None,
    stop: set[int],
    rule: ThoughtRule | None,
) -> Iterator[int]:
    cache = empty_cache(model)
    given = [] if rule is None else rule.prefix()[:max_tokens]
    yield from given
    if given:
        ids = torch.cat([ids, torch.tensor([given], device=ids.device)], 1)
    whole = ids
    for _ in range(max_tokens - len(given)):
        # not around the loop: between two tokens the caller's code runs
        with torch.inference_mode():
            output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            logits = output.logits[:, -1]
            if rule is not None:
                logits = rule(whole, logits)
            token = choose_token(logits[0], temperature, top_p, generator)
        if token in stop:
            return
        yield token
        cache = output.past_key_values
        ids = torch.tensor([[token]], device=ids.device)
        if rule is not None:
            whole = torch.cat([whole, ids], 1)


def _end_ids(tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    end = None if tokenizer is None else tokenizer.eos_token_id
    return [] if end is None else [end] if isinstance(end, int) else list(end)
