"""Carries a design out: attempts, votes, checks.

What we do differently from the usual vote over samples (Wang et al. 2022, arXiv:2203.11171):
1. A vote is weighted: each attempt counts 1, a quarter for each check that it fails and that the design doubts by, and
   nothing if it fails one that the design rejects by. Without any weight left the plain vote decides.
2. Every attempt has a seed of its own, made of the question and its number, so that an answer depends neither on
   other questions nor on which design asked for the same attempt before.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeAlias

from transformers import PreTrainedTokenizerBase

from agent_forge.agent.answer_checks import failed_checks, words
from agent_forge.agent.calls import parse_call
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.routes import FirstPass
from agent_forge.agent.runtime import Message, converse_all
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript
from agent_forge.model.decoder import Decoder
from agent_forge.model.thought_rule import Think

DOUBT = 0.25
"""What is left of a vote for each check that the design doubts by, and for an answer that was cut off."""
_THINK: dict[str, Think] = {"auto": "auto", "on": True, "off": False}


@dataclass(frozen=True)
class Attempt:
    """One way to an answer.

    Attributes:
        transcript: its steps.
        vote: what it votes for: the words of its answer; empty for a blank answer.
        failed: checks that it fails.
    """

    transcript: Transcript
    vote: str
    failed: frozenset[str]


@dataclass(frozen=True)
class Answered:
    """What a design made of a question.

    Attributes:
        transcript: of the attempt that won: the first with the answer that got most.
        num_attempts: how many were made.
        num_tokens: decoded in all of them.
        is_blank: no attempt came to an answer.
    """

    transcript: Transcript
    num_attempts: int
    num_tokens: int
    is_blank: bool


Memo: TypeAlias = dict[tuple[Any, ...], Attempt]
"""Attempts made before: they are the same whichever design asks for them."""
Equip: TypeAlias = Callable[[Decoder, AgentDesign], AbstractContextManager[Decoder]]
"""The model with the experts and the pruning of a design without routes, for as long as the block runs."""


def answer(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    design: AgentDesign,
    questions: Sequence[str | Sequence[Message]],
    *,
    first_pass: FirstPass | None = None,
    equip: Equip | None = None,
    seed: int = 0,
    max_tokens: int = 128,
    memo: Memo | None = None,
    ahead: int = 1,
    batch_tokens: int = 32768,
) -> list[Answered]:
    """Answers each question as the design says.

    A design with routes has each question read once by the first pass, before anything is attempted; then the questions
    of each kind are answered as their route says. ``num_tokens`` counts what is decoded, so the first pass costs none.

    Args:
        model: in evaluation mode, with the design's experts and pruning unless ``equip`` puts them on; window and
            recursion are set here.
        tokenizer: its tokenizer.
        toolbox: its tools; None = it has none.
        design: how to go about it.
        questions: each a question, or a conversation that ends with one.
        first_pass: tells the kinds of question apart; needed for a design with routes, not asked otherwise.
        equip: puts the experts and the pruning of each route on.
        seed: of the attempts.
        max_tokens: of the words of each turn.
        memo: filled with every attempt, and asked before one is made; for one model and one ``max_tokens``.
        ahead: attempts made at once for each question; those that turn out not to be needed are not counted.
        batch_tokens: tokens in a batch at most.

    Raises:
        ValueError: the design asks for thoughts, a window or recursion, and the model has none; or it has routes, and
            there is no first pass.
    """
    design = design.canonical()
    known: Memo = {} if memo is None else memo
    options = {"seed": seed, "max_tokens": max_tokens, "batch_tokens": batch_tokens, "ahead": ahead}
    found: dict[int, Answered] = {}
    for route, places in _by_route(design, questions, first_pass).items():
        with nullcontext(model) if equip is None else equip(model, route) as equipped, shaped(equipped, route):
            asked = [questions[n] for n in places]
            found |= zip(places, _polled(equipped, tokenizer, toolbox, route, asked, known, options), strict=True)
    return [found[n] for n in range(len(questions))]


def _by_route(
    design: AgentDesign, questions: Sequence[str | Sequence[Message]], first_pass: FirstPass | None
) -> dict[AgentDesign, list[int]]:
    """Which questions are answered by which row: the places of each."""
    if not design.routes:
        return {design: list(range(len(questions)))}
    if first_pass is None:
        raise ValueError("the design has routes, and nothing was given that tells kinds of question apart")
    found: dict[AgentDesign, list[int]] = defaultdict(list)
    for n, kind in enumerate(first_pass([_text(question) for question in questions])):
        found[design.route(kind)].append(n)
    return found


def _polled(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    design: AgentDesign,
    questions: Sequence[str | Sequence[Message]],
    known: Memo,
    options: Mapping[str, Any],
) -> list[Answered]:
    """One row for all of the questions, with the model as the row wants it."""
    polls = [_Poll(design) for _ in questions]
    waiting = list(range(len(questions)))
    while waiting:
        wanted = [(n, step) for n in waiting for step in polls[n].steps()[: options["ahead"]]]
        keys = {place: _key(design, questions[place[0]], place[1], options["seed"]) for place in wanted}
        _attempt(model, tokenizer, toolbox, design, questions, keys, known, options)
        for place in wanted:
            polls[place[0]].take(known[keys[place]])
        waiting = [n for n in waiting if polls[n].steps()]
    return [poll.outcome() for poll in polls]


def _text(question: str | Sequence[Message]) -> str:
    """What is asked, without what was said before."""
    return question if isinstance(question, str) else question[-1]["content"]


def as_options(design: AgentDesign) -> dict[str, Any]:
    """A design of one attempt as the options of `agent_forge.agent.runtime.stream`."""
    return {
        "think": _THINK[design.think], "thought_budget": design.thought_budget, "max_calls": design.max_calls,
        "temperature": 0.0,
    }  # fmt: skip


Step: TypeAlias = tuple[int, bool, bool, bool]
"""Number of an attempt; whether it is greedy, has tools, and is calculated."""


class _Poll:
    """The votes on one question."""

    def __init__(self, design: AgentDesign) -> None:
        self.design = design
        self.taken: list[Attempt] = []
        self.settled = False

    def steps(self) -> list[Step]:
        """What is still to be attempted, in order; none once it is settled."""
        design = self.design
        if self.settled:
            return []
        plan: list[Step] = [(-1, True, False, False)] if design.tools == "after" else []
        for n in range(design.samples):
            calculated = design.calculated == "yes" or (design.calculated == "in turn" and n % 2 == 1)
            greedy = design.temperature == 0 or (n == 0 and design.greedy_first)
            plan.append((n, greedy, design.tools != "never", calculated))
        return plan[len(self.taken) :]

    def take(self, attempt: Attempt) -> None:
        """Counts an attempt, unless the question is settled."""
        if self.settled:
            return
        self.taken.append(attempt)
        alone = self.design.tools == "after" and len(self.taken) == 1
        if alone:
            wants_call = parse_call(attempt.transcript.answer) is not None
            self.settled = not wants_call and self.weight(attempt) == 1
        elif self.design.enough:
            self.settled = max(self.votes().values(), default=0.0) >= self.design.enough

    def weight(self, attempt: Attempt) -> float:
        """What its vote counts."""
        if not attempt.vote:
            return 0.0
        weight = 1.0 if attempt.transcript.stopped == "answer" else DOUBT
        for check, consequence in self.design.checks:
            if check in attempt.failed:
                weight *= 0.0 if consequence == "reject" else DOUBT
        return weight

    def votes(self) -> dict[str, float]:
        """Vote → its weight, in the order in which they came."""
        found: dict[str, float] = defaultdict(float)
        for attempt in self._voters():
            if attempt.vote:
                found[attempt.vote] += self.weight(attempt)
        return found

    def _voters(self) -> list[Attempt]:
        """Without the attempt without tools, once there are others."""
        return self.taken[1:] if self.design.tools == "after" and len(self.taken) > 1 else self.taken

    def outcome(self) -> Answered:
        """The answer with the most weight; among equal ones the one named more often, then the earlier one."""
        voters = self._voters()
        votes, named = self.votes(), Counter(attempt.vote for attempt in voters)
        best = max(votes, key=lambda vote: (votes[vote], named[vote]), default="")
        chosen = next(attempt for attempt in voters if attempt.vote == best or not votes)
        tokens = sum(attempt.transcript.num_tokens for attempt in self.taken)
        return Answered(chosen.transcript, len(self.taken), tokens, is_blank=not votes)


def _key(design: AgentDesign, question: str | Sequence[Message], step: Step, seed: int) -> tuple[Any, ...]:
    """All that an attempt depends on."""
    number, greedy, tools, calculated = step
    asked = question if isinstance(question, str) else tuple(tuple(sorted(m.items())) for m in question)
    shape = (design.recursion_steps, design.window, design.experts, design.pruning)
    drawn = (0, 0.0) if greedy else (1 + number, design.temperature, seed)
    calls = design.max_calls if tools else None  # no tools is not no calls: words that look like a call are an answer
    return (asked, drawn, design.think, calls, calculated, design.thought_budget, shape)


def _attempt(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    design: AgentDesign,
    questions: Sequence[str | Sequence[Message]],
    keys: Mapping[tuple[int, Step], tuple[Any, ...]],
    known: Memo,
    options: Mapping[str, Any],
) -> None:
    """Makes the attempts that are not known yet, those of one kind side by side."""
    kinds: dict[tuple[bool, bool, bool], list[tuple[int, Step]]] = defaultdict(list)
    asked: set[tuple[Any, ...]] = set()
    for place, key in keys.items():
        if key not in known and key not in asked:
            asked.add(key)
            kinds[place[1][1:]].append(place)
    for (greedy, tools, calculated), places in kinds.items():
        found = converse_all(
            model, tokenizer, toolbox if tools else None, [questions[n] for n, _ in places],
            max_calls=design.max_calls, max_tokens=options["max_tokens"], batch_tokens=options["batch_tokens"],
            think=_THINK[design.think], thought_budget=design.thought_budget,
            temperature=0.0 if greedy else design.temperature, calculated=calculated,
            seeds=[_seed(questions[n], step[0], options["seed"]) for n, step in places],
        )  # fmt: skip
        for place, transcript in zip(places, found, strict=True):
            vote = " ".join(words(transcript.answer))
            failed = failed_checks(_text(questions[place[0]]), transcript, toolbox if tools else None)
            known[keys[place]] = Attempt(transcript, vote, failed)


def _seed(question: str | Sequence[Message], number: int, seed: int) -> int:
    said = json.dumps([question if isinstance(question, str) else [dict(m) for m in question], number, seed])
    return int.from_bytes(hashlib.blake2b(said.encode(), digest_size=8).digest(), "big") >> 1


@contextmanager
def shaped(model: Decoder, design: AgentDesign) -> Iterator[None]:
    """Window and recursion of the model for as long as the block runs."""
    wanted = {"recursion_steps": design.recursion_steps, "sliding_window": design.window}
    changes = {name: value for name, value in wanted.items() if value is not None}
    for name in changes:
        if not getattr(model.config, name, None):
            raise ValueError(f"the design sets {name}, and this model ({type(model).__name__}) has none")
    before = {name: getattr(model.config, name) for name in changes}
    try:
        for name, value in changes.items():
            setattr(model.config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model.config, name, value)
