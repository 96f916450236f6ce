"""Continuations of many prompts, greedy or each drawn on its own: what one row says does not depend on the others.

Every row has a seed of its own, and a row that has ended leaves the batch. With `generate` of transformers one
generator serves the whole batch, and a batch runs until its longest row has ended: an answer that is drawn
again among other questions is another one, and short answers wait for the longest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent_forge.model.decoder import Decoder, empty_cache
from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think, ThoughtRule, thought_rule

Insert: TypeAlias = Callable[[Sequence[int]], Sequence[int]]
"""What a row has said so far → tokens that it says next without being asked; none = the model goes on."""

_LEAVE_FRACTION = 0.125
"""Share of ended rows from which on they are taken out: taking out copies the cache."""


@torch.inference_mode()
def generate_rows(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    *,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
    stop_ids: Collection[int] | None = None,
    insert: Insert | None = None,
    batch_tokens: int = 8192,
) -> list[list[int]]:
    """The likeliest tokens after each prompt, or one draw.

    Args:
        model: any causal language model with a cache whose rows can be selected.
        tokenizer: asked for its end and padding tokens.
        prompts: token ids, at least one each.
        max_tokens: tokens of a continuation at most, thoughts and their marks included.
        temperature: 0 = always the likeliest token.
        seeds: of the draws, one for each prompt; equal prompts with equal seeds are continued equally, in any batch
            (up to rounding: sums over padded rows have another order). None only at temperature 0.
        think, thought_budget: as in `agent_forge.model.generation.generate_tokens`.
        stop_ids: tokens that end a continuation; None = the tokenizer's end token.
        insert: asked after each token of a row, its thought marks included, for tokens that come next in any case.
        batch_tokens: tokens in a batch at most, continuations and padding included; prompts of like length go together.

    Returns:
        For each prompt the tokens before the one that ended it, which is left out.

    Raises:
        ValueError: an empty prompt, a negative temperature, a draw without seeds, not as many seeds as prompts, or
            ``think`` is True and the tokenizer has no thought tokens.
    """
    if temperature < 0 or not all(prompts):
        raise ValueError(f"temperature {temperature} must be at least 0, and every prompt needs a token")
    if len(seeds or ()) != len(prompts) and (temperature or seeds is not None):
        raise ValueError(
            f"{len(prompts)} prompts at temperature {temperature} need as many seeds, not {len(seeds or ())}"
        )
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    rule = thought_rule(tokenizer, end, think, thought_budget)
    stop = set(end if stop_ids is None else stop_ids)
    given = [] if rule is None else rule.prefix()[:max_tokens]
    pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    said: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    longest = max(map(len, prompts), default=1)
    batch_rows = max(1, batch_tokens // (longest + max_tokens))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        uniform = _uniform([seeds[n] for n in rows], max_tokens) if temperature and seeds is not None else None
        batch = _Rows(model, [[*prompts[n], *given] for n in rows], pad, uniform, temperature, rule)
        for n, ids in zip(rows, batch.run(given, max_tokens, stop, insert), strict=True):
            said[n] = ids
    return said


def _uniform(seeds: Sequence[int], count: int) -> Tensor:
    """[rows, count] numbers in [0, 1), row by row from its own seed."""
    rows = [torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in seeds]
    return torch.stack(rows)


class _Rows:
    """Rows of one batch on their way: ``alive`` holds the number of each row that is still in it."""

    def __init__(
        self,
        model: Decoder,
        prompts: Sequence[Sequence[int]],
        pad: int,
        uniform: Tensor | None,
        temperature: float,
        rule: ThoughtRule | None,
    ) -> None:
        self.model, self.uniform, self.temperature, self.rule = model, uniform, temperature, rule
        self.device = model.device
        # equal prompts are read once
        numbers: dict[tuple[int, ...], int] = {}
        self.reader = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
        longest = max(map(len, numbers))
        ids = [[pad] * (longest - len(prompt)) + list(prompt) for prompt in numbers]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in numbers]
        self.whole = torch.tensor(ids, device=self.device)
        self.mask = torch.tensor(mask, device=self.device)
        self.alive = list(range(len(prompts)))
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.cache = empty_cache(model)

    def run(
        self, given: Sequence[int], max_tokens: int, stop: Collection[int], insert: Insert | None
    ) -> list[list[int]]:
        """The continuation of every row, ``given`` included."""
        said = [list(given) for _ in self.alive]
        waiting: list[list[int]] = [[] for _ in self.alive]
        ended: set[int] = set()
        for step in range(max_tokens - len(given)):
            logits = self._read() if step == 0 else self._logits(1)
            tokens = self._choose(logits, step)
            chosen = tokens.tolist()
            for place, n in enumerate(self.alive):
                if n in ended:
                    continue
                if waiting[n]:
                    tokens[place] = chosen[place] = waiting[n].pop(0)
                token = chosen[place]
                if token in stop:
                    ended.add(n)
                    continue
                said[n].append(token)
                if insert is not None and not waiting[n]:
                    waiting[n] = list(insert(said[n]))
            if len(ended) == len(said):
                break
            self.whole = torch.cat([self.whole, tokens[:, None]], 1)
            self.mask = torch.cat([self.mask, torch.ones_like(tokens[:, None])], 1)
            self._leave(ended)
        return said

    def _read(self) -> Tensor:
        """The first logits [rows, vocab]: each different prompt is read once, then stands for all rows that have it."""
        logits = self._logits(self.whole.shape[1])
        if len(self.reader) == len(self.whole):
            return logits
        index = torch.tensor(self.reader, device=self.device)
        self.whole, self.mask = self.whole[index], self.mask[index]
        self.cache.batch_select_indices(index)
        return logits[index]

    def _logits(self, fresh: int) -> Tensor:
        """[rows, vocab] for what follows; the last ``fresh`` tokens have not been read yet."""
        options: dict[str, Any] = {}
        if self.takes_positions:
            options["position_ids"] = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -fresh:]
        output = self.model(
            input_ids=self.whole[:, -fresh:], attention_mask=self.mask, past_key_values=self.cache, use_cache=True,
            logits_to_keep=1, **options,
        )  # fmt: skip
        self.cache = output.past_key_values
        logits = output.logits[:, -1].float()
        return logits if self.rule is None else self.rule(self.whole, logits)

    def _choose(self, logits: Tensor, step: int) -> Tensor:
        """[rows] tokens: the first whose cumulative probability exceeds the row's number of this step."""
        if self.uniform is None:
            return logits.argmax(-1)
        # float64: with float32 the sum over a large vocabulary is off by more than its rare tokens have
        summed = (logits.double() / self.temperature).softmax(-1).cumsum(-1)
        wanted = self.uniform[self.alive, step].to(logits.device) * summed[:, -1]
        return torch.searchsorted(summed, wanted[:, None], right=True)[:, 0].clamp(max=logits.shape[-1] - 1)

    def _leave(self, ended: Collection[int]) -> None:
        """Takes ended rows out once there are enough of them."""
        places = [place for place, n in enumerate(self.alive) if n not in ended]
        if len(self.alive) - len(places) < _LEAVE_FRACTION * len(self.alive):
            return
        kept = torch.tensor(places, device=self.device)
        self.alive = [self.alive[place] for place in places]
        self.whole, self.mask = self.whole[kept], self.mask[kept]
        self.cache.batch_select_indices(kept)
