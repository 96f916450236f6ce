"""Whether an agent has its persona: forced choices between answers, and how its own answers look.

Paper: Bhargava et al. 2024 (arXiv:2409.13697, section 4.3).

What we do differently:
1. Consistency is a preference: log-likelihood per token of an answer in the persona against the same answer in none
   and in another one. It is asked without a history, after a history that holds one answer of each kind, in both
   orders (a pair counts only if both prefer the persona), and late in a conversation.
2. A persona that is not of the house's form has no exact answers; then the prompted teacher's own answers stand for
   the persona, and those of the model without prompt for its absence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.dialogue import Dialogue
from agent_forge.data.practice_dialogues import Exchange, Persona, persona
from agent_forge.data.synthetic_world.words import stream
from agent_forge.data.tokenizer import encode_texts
from agent_forge.optim.prompt_baking import Pair, align, collate, logits_at, spoken


@dataclass(frozen=True)
class Choice:
    """One forced choice: a conversation, an answer in the persona, an answer that is not."""

    messages: tuple[tuple[str, str], ...]
    consistent: str
    inconsistent: str

    def to_json(self) -> dict[str, Any]:
        """A JSON object that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Choice:
        """The inverse of `to_json`."""
        return cls(tuple((role, text) for role, text in row["messages"]), row["consistent"], row["inconsistent"])


def choices(prompt: str, asked: Sequence[Exchange], seed: int) -> list[Choice]:
    """Forced choices about questions that need no tool: against no persona and against another one, in turn.

    Raises:
        ValueError: the persona has no exact answers (it is not of the house's form).
    """
    own = Persona.of(prompt)
    if own is None:
        raise ValueError(f"the persona has no exact answers: {prompt[:80]!r}")
    made = []
    for number, exchange in enumerate(asked):
        other = persona(stream("other persona", seed, number))
        wrong = exchange.answer if number % 2 else other.says(exchange.answer)
        made.append(Choice((("user", exchange.ask),), own.says(exchange.answer), wrong))
    return made


def choices_of_answers(asked: Sequence[Exchange], prompted: Sequence[str], unprompted: Sequence[str]) -> list[Choice]:
    """Forced choices between what a model said with and without the prompt; equal answers are no choice."""
    rows = zip(asked, prompted, unprompted, strict=True)
    return [Choice((("user", e.ask),), one, other) for e, one, other in rows if one != other]


def with_histories(made: Sequence[Choice], earlier: Sequence[Choice], *, swapped: bool) -> list[Choice]:
    """The same choices after two questions, one answered in the persona and one not; ``swapped``: the other first."""
    out = []
    for number, choice in enumerate(made):
        first, second = earlier[(2 * number) % len(earlier)], earlier[(2 * number + 1) % len(earlier)]
        answers = (first.inconsistent, second.consistent) if swapped else (first.consistent, second.inconsistent)
        history = (*first.messages, ("assistant", answers[0]), *second.messages, ("assistant", answers[1]))
        out.append(Choice((*history, *choice.messages), choice.consistent, choice.inconsistent))
    return out


def preferred(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, made: Sequence[Choice]) -> list[bool]:
    """Whether the model finds the consistent answer likelier, by the mean logarithm of its tokens' probabilities."""
    sides = []
    for right in (True, False):
        answers = [choice.consistent if right else choice.inconsistent for choice in made]
        sides.append(_likelihoods(model, tokenizer, [choice.messages for choice in made], answers))
    return [one > other for one, other in zip(*sides, strict=True)]


def style_statistics(prompt: str, answers: Sequence[str]) -> dict[str, float]:
    """How answers look: words, and for a persona of the house's form the shares that open and close as asked."""
    words = [len(answer.split()) for answer in answers]
    found = {"words_per_answer": sum(words) / max(1, len(words))}
    own = Persona.of(prompt)
    if own is not None and answers:
        opened = [answer.startswith(own.opening) for answer in answers]
        closed = [answer.endswith(own.closing) for answer in answers]
        found["opens_fraction"] = sum(opened) / len(answers)
        found["closes_fraction"] = sum(closed) / len(answers)
        found["styled_fraction"] = sum(a and b for a, b in zip(opened, closed, strict=True)) / len(answers)
    return found


@torch.inference_mode()
def _likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[Sequence[tuple[str, str]]],
    answers: Sequence[str],
    batch_size: int = 32,
) -> list[float]:
    """Mean log-probability of the tokens of each answer after its conversation, the end mark included."""
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    pairs: list[Pair] = []
    for messages, ids in zip(contexts, encode_texts(tokenizer, list(answers)), strict=True):
        told = [{"role": role, "content": content} for role, content in messages]
        both = spoken(Dialogue(tokenizer, told).prompt(), [*ids, *end])
        pairs.append(align(both, both))
    device = next(model.parameters()).device
    found: list[float] = []
    for start in range(0, len(pairs), batch_size):
        batch = collate(pairs[start : start + batch_size], device=device)
        logits = logits_at(model, batch.plain, batch.rows, batch.plain_at).float().log_softmax(-1)
        wanted = batch.plain[batch.rows, batch.plain_at + 1]
        values = logits.gather(-1, wanted[:, None])[:, 0]
        for row in range(len(pairs[start : start + batch_size])):
            found.append(float(values[batch.rows == row].mean()))
    return found
