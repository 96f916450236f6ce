"""Prompt baking: a prompt becomes part of the weights, so that it need not be given any more.

Paper: Bhargava, Witkowski, Detkov and Thomson 2024, "Prompt Baking" (arXiv:2409.13697), section 3: find θ_u with
P_{θ_u}(·) ≈ P_θ(·|u) by minimising, over trajectories y that the prompted teacher samples,

    Σ_t KL( P_θ(· | u, x, y_<t) ‖ P_{θ_u}(· | x, y_<t) ),

over whole next-token distributions. Section 3.2: half-baking; section 5: prompt pursuit (the baked model, prompted
again, is the next teacher).

What we do differently:
1. Teacher and student read the same trajectory through different contexts; positions are matched by a mask of the
   model's own tokens, and equal token ids are checked, never assumed.
2. The teacher is asked once. Its k most likely tokens and the probability of all others together are kept; the
   divergence over these k + 1 events is a lower bound of the full one, and equal to it when k is the vocabulary.
3. Half-baking scales the difference of weights by a strength from 0 to 1 (`interpolate`). Stopping the training
   early, as in the paper, gives a point that depends on the learning rate.
4. The same loss on ordinary text, without a prompt on either side, holds everything else in place (an anchor).
5. Sampling is exact by the Gumbel trick (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030), so that one explicit
   generator decides everything and a batch of prompts is sampled by any model that can `generate`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from agent_forge.data.tokenizer import Encoded
from agent_forge.model.forward import arithmetic


@dataclass(frozen=True)
class Pair:
    """One trajectory as teacher and student read it.

    Attributes:
        prompted: token ids with the prompt in context.
        plain: token ids without it.
        prompted_places: positions in ``prompted`` of the model's own tokens, ascending, none of them 0.
        plain_places: the same in ``plain``; equal numbers of places, equal tokens there.
    """

    prompted: tuple[int, ...]
    plain: tuple[int, ...]
    prompted_places: tuple[int, ...]
    plain_places: tuple[int, ...]


@dataclass(frozen=True)
class Targets:
    """What a teacher expects at N positions.

    Attributes:
        log_probabilities: [N, k], of the tokens in ``tokens``; of the whole vocabulary where ``tokens`` is None.
        tokens: int64 [N, k], most likely first; None = all of them, in order.
        rest: [N], logarithm of the probability of all other tokens; None where there are none.
    """

    log_probabilities: Tensor
    tokens: Tensor | None = None
    rest: Tensor | None = None

    def __len__(self) -> int:
        return self.log_probabilities.shape[0]

    def at(self, places: Tensor | slice) -> Targets:
        """The targets of some positions."""
        return Targets(
            self.log_probabilities[places],
            None if self.tokens is None else self.tokens[places],
            None if self.rest is None else self.rest[places],
        )


def align(prompted: Encoded, plain: Encoded) -> Pair:
    """Matches the model's own tokens of one conversation, encoded with and without the prompt.

    Args:
        prompted: with the prompt.
        plain: without it.

    Raises:
        ValueError: the own tokens differ in number or in kind, or there are none.
    """
    places = [tuple(at for at, given in enumerate(side.prompted) if not given and at > 0) for side in (prompted, plain)]
    said = [[side.ids[at] for at in found] for side, found in zip((prompted, plain), places, strict=True)]
    if said[0] != said[1]:
        wrong = next((n for n, (a, b) in enumerate(zip(*said, strict=False)) if a != b), min(map(len, said)))
        raise ValueError(
            f"with the prompt the model says {len(said[0])} tokens, without it {len(said[1])}; they differ from "
            f"number {wrong} on: the response must be the same tokens on both sides"
        )
    if not said[0]:
        raise ValueError("the conversation holds no token of the model's own; there is nothing to bake")
    return Pair(tuple(prompted.ids), tuple(plain.ids), *places)


def same_on_both_sides(encoded: Encoded) -> Pair:
    """A pair without a prompt on either side, for anchors and for recovery; plain text is all the model's own."""
    return align(encoded, encoded)


def spoken(given: Sequence[int], response: Sequence[int]) -> Encoded:
    """A prompt and the response to it as an encoded conversation."""
    return Encoded([*given, *response], [True] * len(given) + [False] * len(response))


def teacher_targets(logits: Tensor, *, top_k: int = 0, temperature: float = 1.0) -> Targets:
    """What logits say, whole or cut to the ``top_k`` likeliest tokens and the rest.

    Args:
        logits: [N, V].
        top_k: 0 = all tokens.
        temperature: of the teacher, > 0.

    Returns:
        Targets in float32.

    Raises:
        ValueError: ``top_k`` is negative, or the temperature is not positive.
    """
    if top_k < 0 or temperature <= 0:
        raise ValueError(f"top_k {top_k} must be at least 0 and temperature {temperature} above 0")
    log_p = torch.log_softmax(logits.float() / temperature, -1)
    if top_k == 0 or top_k >= log_p.shape[-1]:
        return Targets(log_p)
    kept, tokens = log_p.topk(top_k, -1)
    return Targets(kept, tokens, _log_rest(log_p, tokens))


def divergence(student_logits: Tensor, targets: Targets, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher ‖ student) at each position, in nats.

    Args:
        student_logits: [N, V].
        targets: of the same N positions.
        temperature: of the student; the same as the teacher's.

    Returns:
        [N], not negative up to rounding. With ``top_k`` targets it is the divergence over k + 1 events.
    """
    log_q = torch.log_softmax(student_logits.float() / temperature, -1)
    if targets.tokens is None:
        return _expected_gap(targets.log_probabilities, log_q).sum(-1)
    found = _expected_gap(targets.log_probabilities, log_q.gather(-1, targets.tokens)).sum(-1)
    assert targets.rest is not None
    return found + _expected_gap(targets.rest, _log_rest(log_q, targets.tokens))


@dataclass(frozen=True)
class PairBatch:
    """Pairs padded to the right, which a causal model cannot see.

    Attributes:
        prompted: int64 [B, T].
        plain: int64 [B, S].
        rows: int64 [N], row of each own token.
        prompted_at: int64 [N], position whose logits predict it in ``prompted``.
        plain_at: int64 [N], the same in ``plain``.
    """

    prompted: Tensor
    plain: Tensor
    rows: Tensor
    prompted_at: Tensor
    plain_at: Tensor


def collate(pairs: Sequence[Pair], *, pad_id: int = 0, device: str | torch.device = "cpu") -> PairBatch:
    """Lays pairs side by side.

    Raises:
        ValueError: there are none.
    """
    if not pairs:
        raise ValueError("there are no pairs to lay side by side")
    rows = [row for row, pair in enumerate(pairs) for _ in pair.plain_places]
    prompted_at = [at - 1 for pair in pairs for at in pair.prompted_places]
    plain_at = [at - 1 for pair in pairs for at in pair.plain_places]
    numbers = [torch.tensor(values, dtype=torch.long, device=device) for values in (rows, prompted_at, plain_at)]
    sides = [_padded(ids, pad_id, device) for ids in ([p.prompted for p in pairs], [p.plain for p in pairs])]
    return PairBatch(*sides, *numbers)


def logits_at(model: torch.nn.Module, ids: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Logits [N, V] of ``model`` at some positions of ``ids`` [B, T]."""
    return model(input_ids=ids, use_cache=False).logits[rows, places]


@torch.inference_mode()
def targets_of(
    teacher: torch.nn.Module, pairs: Sequence[Pair], *, top_k: int, temperature: float = 1.0, batch_size: int = 32
) -> list[Targets]:
    """What the prompted teacher expects at the own tokens of each pair; computed once, read at every step."""
    device = next(teacher.parameters()).device
    found: list[Targets | None] = [None] * len(pairs)
    for numbers in _by_length(pairs, batch_size):
        batch = collate([pairs[n] for n in numbers], device=device)
        logits = logits_at(teacher, batch.prompted, batch.rows, batch.prompted_at)
        all_of_them = teacher_targets(logits, top_k=top_k, temperature=temperature)
        at = 0
        for n in numbers:
            count = len(pairs[n].plain_places)
            found[n] = all_of_them.at(slice(at, at + count))
            at += count
    return [entry for entry in found if entry is not None]


def joined(targets: Sequence[Targets]) -> Targets:
    """Targets of several pairs, one after another, as `collate` orders their tokens."""
    tokens = [entry.tokens for entry in targets if entry.tokens is not None]
    rest = [entry.rest for entry in targets if entry.rest is not None]
    return Targets(
        torch.cat([entry.log_probabilities for entry in targets]).clone(),
        torch.cat(tokens).clone() if tokens else None,
        torch.cat(rest).clone() if rest else None,
    )


def baking_loss(
    student: torch.nn.Module,
    pairs: Sequence[Pair],
    targets: Sequence[Targets],
    *,
    temperature: float = 1.0,
    autocast: torch.dtype = torch.float32,
) -> Tensor:
    """Mean over the own tokens of KL(prompted teacher ‖ student without prompt), in nats, with gradient.

    ``autocast`` is the type of the forward pass; the divergence itself is fp32.
    """
    device = next(student.parameters()).device
    batch = collate(pairs, device=device)
    with arithmetic(device, autocast):
        logits = logits_at(student, batch.plain, batch.rows, batch.plain_at)
    return divergence(logits, joined(targets), temperature=temperature).mean()


@torch.inference_mode()
def mean_divergence(
    student: torch.nn.Module,
    pairs: Sequence[Pair],
    targets: Sequence[Targets],
    *,
    prompted: bool = False,
    batch_size: int = 32,
) -> float:
    """Mean over all own tokens of KL(teacher ‖ student), in nats.

    Args:
        student: reads the plain side.
        pairs: trajectories.
        targets: of the teacher.
        prompted: the student reads the prompted side instead.
        batch_size: pairs in a forward pass.
    """
    device = next(student.parameters()).device
    total, count = 0.0, 0
    for numbers in _by_length(pairs, batch_size):
        batch = collate([pairs[n] for n in numbers], device=device)
        side = (batch.prompted, batch.prompted_at) if prompted else (batch.plain, batch.plain_at)
        logits = logits_at(student, side[0], batch.rows, side[1])
        found = divergence(logits, joined([targets[n] for n in numbers]))
        total, count = total + float(found.double().sum()), count + len(found)
    return total / count


def interpolate(before: Mapping[str, Tensor], after: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Half-baking: θ + strength · (θ_u − θ) for every tensor.

    Args:
        before: θ.
        after: θ_u, with the same names and shapes.
        strength: 0 = nothing is baked, 1 = everything.

    Raises:
        ValueError: a strength outside 0–1, or other names.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength} lies outside 0–1")
    if before.keys() != after.keys():
        raise ValueError(f"these tensors are only on one side: {sorted(before.keys() ^ after.keys())[:5]}")
    # the two ends are exact, which a rounded sum would not be
    if strength in (0.0, 1.0):
        return {name: (after if strength else before)[name].clone() for name in before}
    return {name: value + strength * (after[name] - value) for name, value in before.items()}


def sample_responses(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    end_id: int | None,
    generator: torch.Generator,
    temperature: float = 1.0,
    pad_id: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """Responses that the model itself gives, end mark included where it came in time.

    Args:
        model: in evaluation mode.
        prompts: token ids of each context; prompts of like length are sampled together, padded on the left.
        max_tokens: of a response.
        end_id: token that ends it.
        generator: of the noise, on the CPU.
        temperature: 0 = the likeliest token always.
        pad_id: token of the padding.
        batch_size: responses at once.

    Raises:
        ValueError: a negative temperature, or an empty prompt.
    """
    if temperature < 0 or not all(prompts):
        raise ValueError(f"temperature {temperature} must be at least 0, and every prompt needs a token")
    noise = LogitsProcessorList([_GumbelNoise(temperature, generator)] if temperature else [])
    settings = GenerationConfig(
        max_new_tokens=max_tokens, do_sample=False, use_cache=True, pad_token_id=pad_id, eos_token_id=end_id
    )
    device = next(model.parameters()).device
    found: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        longest = len(prompts[rows[0]])
        ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, n in enumerate(rows):
            ids[place, longest - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[place, longest - len(prompts[n]) :] = 1
        with torch.inference_mode():
            said = model.generate(  # type: ignore[operator]
                ids.to(device), attention_mask=mask.to(device), generation_config=settings, logits_processor=noise
            )
        for n, row in zip(rows, said[:, longest:].tolist(), strict=True):
            found[n] = row[: row.index(end_id) + 1] if end_id in row else row
    return found


class _GumbelNoise(LogitsProcessor):
    """argmax(logits / T + G) with G Gumbel noise is a sample of softmax(logits / T)."""

    def __init__(self, temperature: float, generator: torch.Generator) -> None:
        self.temperature, self.generator = temperature, generator

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        uniform = torch.rand(scores.shape, generator=self.generator).clamp_(1e-20, 1 - 1e-7)
        return scores.float() / self.temperature - torch.log(-torch.log(uniform)).to(scores.device)


def _expected_gap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p · (log p − log q), 0 where p is 0."""
    # −inf − x would be fine, but −inf times 0 is not a number, in the gradient too
    known = log_p > -torch.inf
    safe = torch.where(known, log_p, torch.zeros_like(log_p))
    return torch.where(known, safe.exp() * (safe - log_q.clamp(min=-1e4)), torch.zeros_like(log_p))


def _log_rest(log_p: Tensor, tokens: Tensor) -> Tensor:
    """Logarithm of the probability of every token but ``tokens`` [N, k], for ``log_p`` [N, V]."""
    # not log(1 − Σ): that loses every digit where the k tokens hold nearly all
    return log_p.scatter(-1, tokens, -torch.inf).logsumexp(-1)


def _padded(rows: Sequence[Sequence[int]], pad_id: int, device: str | torch.device) -> Tensor:
    ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.long)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
    return ids.to(device)


def _by_length(pairs: Sequence[Pair], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(pairs)), key=lambda n: (len(pairs[n].prompted), n))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
