"""Conversations that the prompted teacher has, as teacher and student read them.

Paper: Bhargava et al. 2024 (arXiv:2409.13697, section 3.1): trajectories are sampled from the prompted teacher.

What we do differently:
1. A conversation has several questions, and calls of tools are carried out for real: what a tool said is part of the
   context on both sides, and none of the model's own tokens.
2. Teacher and student see the same conversation through two dialogues that differ in the prompt alone; the tokens
   sampled for one are put into the other, never text that is tokenized again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.calls import parse_call
from agent_forge.agent.dialogue import Dialogue
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.corpora import Corpus
from agent_forge.data.practice_dialogues import Exchange
from agent_forge.data.tokenizer import Encoded, encode_documents
from agent_forge.optim.prompt_baking import Pair, align, same_on_both_sides, sample_responses, spoken

MAX_CALLS = 5


@dataclass(frozen=True)
class Prompt:
    """What only the teacher is told.

    Attributes:
        system: a turn before the conversation; empty = none.
        tools: a line at the end of the first question, such as the list of tools; empty = none.
    """

    system: str = ""
    tools: str = ""

    def messages(self, question: str) -> list[dict[str, str]]:
        """The beginning of a conversation."""
        asked = {"role": "user", "content": f"{question}\n{self.tools}" if self.tools else question}
        return [{"role": "system", "content": self.system}, asked] if self.system else [asked]


@dataclass
class Trajectory:
    """One conversation.

    Attributes:
        asked: its questions.
        turns: prompted context, plain context and response (end included) of every turn of the model.
        answers: what it said to each question, as far as it came.
        calls: its calls, question by question.
        whole: every turn ended in time.
    """

    asked: Sequence[Exchange]
    turns: list[tuple[list[int], list[int], list[int]]] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    calls: list[list[str]] = field(default_factory=lambda: [[]])
    whole: bool = True

    def pairs(self) -> list[Pair]:
        """What prompt baking reads: one pair, or one for each turn where contexts do not simply grow."""
        sides = [_grown([(turn[side], turn[2]) for turn in self.turns]) for side in (0, 1)]
        if sides[0] is not None and sides[1] is not None:
            return [align(sides[0], sides[1])]
        return [align(spoken(prompted, said), spoken(plain, said)) for prompted, plain, said in self.turns]


@dataclass
class _Running:
    found: Trajectory
    prompted: Dialogue
    plain: Dialogue
    number: int = 0


def sample_trajectories(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox,
    conversations: Sequence[Sequence[Exchange]],
    prompt: Prompt,
    *,
    temperature: float,
    generator: torch.Generator,
    max_tokens: int,
) -> list[Trajectory]:
    """Lets the prompted model answer, calling tools on the way.

    Args:
        model: the teacher, in evaluation mode.
        tokenizer: its tokenizer.
        toolbox: carries its calls out.
        conversations: questions of each.
        prompt: what the teacher is told and the student is not.
        temperature: of the sampling.
        generator: of the sampling.
        max_tokens: of a turn; a conversation whose turn does not end by then ends there.

    Returns:
        One trajectory for each conversation.
    """
    running = []
    for asked in conversations:
        first = asked[0].ask
        prompted, plain = (Dialogue(tokenizer, told.messages(first)) for told in (prompt, Prompt()))
        running.append(_Running(Trajectory(asked), prompted, plain))
    found = [entry.found for entry in running]
    while running:
        contexts = [entry.prompted.prompt() for entry in running]
        said = sample_responses(
            model,
            contexts,
            max_tokens=max_tokens,
            end_id=tokenizer.eos_token_id,
            generator=generator,
            temperature=temperature,
            pad_id=tokenizer.pad_token_id or 0,
        )
        rows = zip(running, contexts, said, strict=True)
        running = [entry for entry, context, ids in rows if _goes_on(entry, context, ids, toolbox, tokenizer)]
    return found


def knowledge_of(asked: Sequence[Exchange]) -> Knowledge:
    """An index that holds what the right calls of these questions look up, whatever world each is about."""
    records: dict[str, dict[str, str]] = {}
    for exchange in asked:
        for call, result in exchange.steps:
            name, _, inner = call[:-1].partition("(")
            first, _, second = inner.partition(", ")
            if name == "lookup":
                records.setdefault(second, {})[first] = result
            elif name == "search":
                for who in result.split(", "):
                    records.setdefault(who, {})[first] = second
    return Knowledge(records)


def anchors(
    corpus: Corpus, tokenizer: PreTrainedTokenizerBase, count: int, tokens: int, generator: torch.Generator
) -> list[Pair]:
    """Pieces of ordinary text, as many from each domain as its weight asks for; all of their tokens count."""
    pairs: list[Pair] = []
    for domain, weight in corpus.mixture().items():
        documents = corpus.documents(domain, "train")
        wanted = min(len(documents), max(1, round(count * weight)))
        chosen = [documents[n] for n in torch.randperm(len(documents), generator=generator)[:wanted].tolist()]
        for encoded in encode_documents(tokenizer, chosen):
            ids = encoded.ids[:tokens]
            if len(ids) > 1:
                pairs.append(same_on_both_sides(Encoded(ids, [False] * len(ids))))
    return pairs


def grouped(asked: Sequence[Exchange], most: int) -> list[list[Exchange]]:
    """Conversations of 1, 2 … ``most`` questions in turn, until all are asked."""
    conversations: list[list[Exchange]] = []
    at = 0
    while at < len(asked):
        size = 1 + len(conversations) % most
        conversations.append(list(asked[at : at + size]))
        at += size
    return conversations


def _goes_on(
    entry: _Running, context: list[int], ids: list[int], toolbox: Toolbox, tokenizer: PreTrainedTokenizerBase
) -> bool:
    """Takes one turn of the model; False when its conversation is over."""
    found, end = entry.found, tokenizer.eos_token_id
    found.turns.append((context, entry.plain.prompt(), ids))
    if not ids or ids[-1] != end:
        found.whole = False
        return False
    words = entry.prompted.hear(ids[:-1])[1]
    for dialogue in (entry.prompted, entry.plain):
        dialogue.add_said(ids[:-1], words)
    call = parse_call(words)
    if call is not None and call.name in toolbox and len(found.calls[-1]) < MAX_CALLS:
        found.calls[-1].append(str(call))
        heard = toolbox.call(call).turn()
    else:
        found.answers.append(words)
        entry.number += 1
        if entry.number == len(found.asked):
            return False
        found.calls.append([])
        heard = found.asked[entry.number].ask
    for dialogue in (entry.prompted, entry.plain):
        dialogue.add_heard(heard)
    return True


def _grown(turns: Sequence[tuple[list[int], list[int]]]) -> Encoded | None:
    """All turns as one text where each context goes on from the one before; None where it does not."""
    ids: list[int] = []
    given: list[bool] = []
    for context, said in turns:
        if context[: len(ids)] != ids:
            return None
        given += [True] * (len(context) - len(ids)) + [False] * len(said)
        ids = [*context, *said]
    return Encoded(ids, given)


def by_tool(asked: Sequence[Exchange]) -> Mapping[str, list[int]]:
    """Numbers of the questions by the tool that they need first."""
    places: dict[str, list[int]] = {}
    for number, exchange in enumerate(asked):
        places.setdefault(exchange.tool, []).append(number)
    return places
