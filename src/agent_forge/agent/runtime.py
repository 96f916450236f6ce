"""The loop: the model speaks; if it called a tool, the result is its next turn; else it has answered.

The model gets no list of its tools unless asked for: a baked model knows them. `stream` is the loop for a conversation,
`converse` gives its outcome, `converse_all` runs many questions side by side in batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from agent_forge.agent.calls import may_become_call, parse_call
from agent_forge.agent.dialogue import Dialogue
from agent_forge.agent.thought_calculator import results_for
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Kind, Stop, Transcript, Turn
from agent_forge.data.tokenizer import has_thoughts
from agent_forge.model.decoder import Decoder
from agent_forge.model.forward import known_positions
from agent_forge.model.generation import generate_tokens, spoken
from agent_forge.model.row_generation import Insert, generate_rows
from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of a turn that is still being written. A turn that may yet be a call has no pieces until it cannot
    be one any more, so a short answer may have none; the whole `Turn` always comes last.
    """

    kind: Kind
    text: str


def converse(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    messages: Sequence[Message],
    *,
    max_calls: int = 8,
    max_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
) -> Transcript:
    """Answers the last message, calling tools on the way.

    Args:
        model: any causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        toolbox: what it may call; None or an empty one: nothing.
        messages: ``{"role", "content"}``, the last one by the user.
        max_calls: of tools, for this answer.
        max_tokens: of the words of each turn of the model.
        temperature: 0 takes the likeliest token.
        seed: of the sampling.
        think, thought_budget: as `generate_tokens` has them; a thought comes on top of ``max_tokens``.

    Raises:
        ValueError: there is no message, or ``max_calls`` is negative.
    """
    transcript = Transcript()
    steps = stream(
        model, tokenizer, toolbox, messages, transcript, max_calls=max_calls, max_tokens=max_tokens,
        temperature=temperature, seed=seed, think=think, thought_budget=thought_budget,
    )  # fmt: skip
    for _ in steps:
        pass
    return transcript


def stream(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    messages: Sequence[Message],
    transcript: Transcript,
    *,
    max_calls: int = 8,
    max_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
) -> Iterator[Piece | Turn]:
    """As `converse`, step by step: pieces of thoughts and of the answer as they are written, then each whole turn.

    ``transcript`` is filled on the way.
    """
    if max_calls < 0:
        raise ValueError(f"max_calls {max_calls} must be at least 0")
    dialogue = Dialogue(tokenizer, messages)
    room, bound = max_tokens + _room(tokenizer, think, thought_budget), known_positions(model)
    for number in range(max_calls + 1):
        prompt = dialogue.prompt()
        if not _fits(bound, prompt, room):
            transcript.stopped = "context"
            return
        ids: list[int] = []
        tokens = generate_tokens(
            model, tokenizer, prompt, max_tokens=room, temperature=temperature, seed=seed + number,
            think=think, thought_budget=thought_budget,
        )  # fmt: skip
        yield from _speak(tokenizer, tokens, ids)
        transcript.add_said(ids)
        turns, stopped = _take(dialogue, toolbox, ids, room, last=number == max_calls)
        for turn in turns:
            transcript.turns.append(turn)
            yield turn
        if stopped is not None:
            transcript.stopped = stopped
            return


def converse_all(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    questions: Sequence[str | Sequence[Message]],
    *,
    max_calls: int = 8,
    max_tokens: int = 128,
    prompted: bool = False,
    batch_tokens: int = 8192,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    calculated: bool = False,
) -> list[Transcript]:
    """Answers many questions, each on its own, in batches.

    Args:
        model, tokenizer, toolbox: as in `converse`.
        questions: what users ask; or conversations, the last message by the user.
        max_calls: of tools, for each answer.
        max_tokens: of each turn of the model.
        prompted: whether each question ends with the list of tools (the control of a baked model).
        batch_tokens: tokens in a batch at most.
        think, thought_budget: as in `converse`.
        temperature: above 0 only with ``seeds``.
        seeds: of the draws, one for each question; None = the likeliest tokens.
        calculated: whether equations in thoughts get their results from the agent's calculator; only with ``seeds``.

    Returns:
        One transcript for each question, in their order.

    Raises:
        ValueError: ``max_calls`` is negative, or answers are to be drawn without seeds.
    """
    if max_calls < 0:
        raise ValueError(f"max_calls {max_calls} must be at least 0")
    if (temperature or calculated) and seeds is None:
        raise ValueError(f"temperature {temperature}, calculated {calculated}: give one seed for each question")
    ending = f"\n{toolbox.prompt()}" if prompted and toolbox is not None else ""
    dialogues = [Dialogue(tokenizer, _messages(question, ending)) for question in questions]
    transcripts, waiting = [Transcript() for _ in questions], list(range(len(questions)))
    room = max_tokens + _room(tokenizer, think, thought_budget)
    for number in range(max_calls + 1):
        prompts = _fitting(model, dialogues, transcripts, waiting, room)
        said = _say(
            model, tokenizer, prompts, room, seeds, number, results_for(tokenizer, toolbox) if calculated else None,
            batch_tokens=batch_tokens, temperature=temperature, think=think, thought_budget=thought_budget,
        )  # fmt: skip
        waiting = list(prompts)
        for n, ids in zip(prompts, said, strict=True):
            transcripts[n].add_said(ids)
            turns, stopped = _take(dialogues[n], toolbox, ids, room, last=number == max_calls)
            transcripts[n].turns += turns
            if stopped is not None:
                transcripts[n].stopped = stopped
                waiting.remove(n)
    return transcripts


def _fitting(
    model: Decoder,
    dialogues: Sequence[Dialogue],
    transcripts: Sequence[Transcript],
    waiting: Sequence[int],
    room: int,
) -> dict[int, list[int]]:
    """Prompts by number of those conversations that have room for another turn; the others end here."""
    prompts, bound = {n: dialogues[n].prompt() for n in waiting}, known_positions(model)
    for n in waiting:
        if not _fits(bound, prompts[n], room):
            transcripts[n].stopped = "context"
            del prompts[n]
    return prompts


def _messages(question: str | Sequence[Message], ending: str) -> list[Message]:
    """The conversation that a question is, with something at the end of its last message."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else list(question)
    return [*messages[:-1], *({**message, "content": message["content"] + ending} for message in messages[-1:])]


def _say(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompted: Mapping[int, list[int]],
    room: int,
    seeds: Sequence[int] | None,
    number: int,
    insert: Insert | None,
    *,
    batch_tokens: int,
    temperature: float,
    think: Think,
    thought_budget: int,
) -> list[list[int]]:
    """Turn ``number`` of several conversations, whose prompts and seeds go by their numbers."""
    # an odd factor: turns of neighbouring seeds stay apart
    turns = None if seeds is None else [(seeds[n] + number * 0x9E3779B97F4A7C15) % 2**63 for n in prompted]
    return generate_rows(
        model, tokenizer, list(prompted.values()), room, seeds=turns, temperature=temperature, think=think,
        thought_budget=thought_budget, insert=insert, batch_tokens=batch_tokens,
    )  # fmt: skip


def _take(
    dialogue: Dialogue, toolbox: Toolbox | None, ids: list[int], room: int, *, last: bool
) -> tuple[list[Turn], Stop | None]:
    """What the model's turn means: its turns, and why to stop (None = go on)."""
    thought, words = dialogue.hear(ids)
    turns = [Turn("thought", thought)] if thought else []
    call = parse_call(words) if toolbox is not None else None
    if call is None or toolbox is None or call.name not in toolbox:
        stopped: Stop = "tokens" if len(ids) >= room else "answer"
        return [*turns, Turn("answer", words)], stopped
    turns.append(Turn("call", str(call)))
    if last:
        return turns, "calls"
    result = toolbox.call(call)
    dialogue.add_said(ids, words)
    dialogue.add_heard(result.turn())
    return [*turns, Turn("result", result.text, result.ok, result.seconds)], None


def _speak(tokenizer: PreTrainedTokenizerBase, tokens: Iterator[int], ids: list[int]) -> Iterator[Piece]:
    """Pieces of the turn as its tokens come; ``ids`` is filled with them."""
    held = ""
    calls = True
    for kind, text in spoken(tokenizer, tokens, ids):
        if kind == "thought":
            yield Piece("thought", text.strip())
            continue
        held += text
        calls = calls and may_become_call(held)
        if not calls and held:
            yield Piece("answer", held)
            held = ""


def _room(tokenizer: PreTrainedTokenizerBase, think: Think, thought_budget: int) -> int:
    """Tokens that a thought and its marks take, on top of those of the words."""
    return thought_budget + 2 if think is not False and has_thoughts(tokenizer) else 0


def _fits(bound: int | None, prompt: list[int], room: int) -> bool:
    """Whether prompt and turn fit the positions that a model has a table for; None: rotary models know no bound."""
    return bound is None or len(prompt) + room <= bound
