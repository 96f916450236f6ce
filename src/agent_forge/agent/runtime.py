"""The loop: the model speaks; if it called a tool, the result is its next turn; else it has answered.

The model gets no list of its tools unless asked for: a baked model knows them. `stream` is the loop for a conversation,
`converse` gives its outcome, `converse_all` runs many questions side by side with greedy batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.calls import may_become_call, parse_call
from agent_forge.agent.dialogue import Dialogue
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Kind, Stop, Transcript, Turn
from agent_forge.model.batch_generation import generate_batch
from agent_forge.model.generation import generate_tokens

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some more text of a turn that is still being written. A turn that may yet be a call has no pieces; an answer may
    end with words that no piece had: the whole `Turn` comes last.
    """

    kind: Kind
    text: str


def converse(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    messages: Sequence[Message],
    *,
    max_calls: int = 8,
    max_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    think: bool | str = "auto",
) -> Transcript:
    """Answers the last message, calling tools on the way.

    Args:
        model: any causal language model, in evaluation mode.
        tokenizer: its tokenizer.
        toolbox: what it may call; None or an empty one: nothing.
        messages: ``{"role", "content"}``, the last one by the user.
        max_calls: of tools, for this answer.
        max_tokens: of each turn of the model.
        temperature: 0 takes the likeliest token.
        seed: of the sampling.
        think: as `generate_tokens` has it.

    Raises:
        ValueError: there is no message, or ``max_calls`` is negative.
    """
    transcript = Transcript()
    options: dict[str, Any] = {"max_calls": max_calls, "max_tokens": max_tokens, "temperature": temperature}
    steps = stream(model, tokenizer, toolbox, messages, transcript, **options, seed=seed, think=think)
    for _ in steps:
        pass
    return transcript


def stream(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    messages: Sequence[Message],
    transcript: Transcript,
    *,
    max_calls: int = 8,
    max_tokens: int = 200,
    temperature: float = 0.0,
    seed: int = 0,
    think: bool | str = "auto",
) -> Iterator[Piece | Turn]:
    """As `converse`, step by step: pieces of thoughts and of the answer as they are written, then each whole turn.

    ``transcript`` is filled on the way.
    """
    if max_calls < 0:
        raise ValueError(f"max_calls {max_calls} must be at least 0")
    dialogue = Dialogue(tokenizer, messages)
    for number in range(max_calls + 1):
        prompt = dialogue.prompt()
        if not _fits(model, prompt, max_tokens):
            transcript.stopped = "context"
            return
        ids: list[int] = []
        options = {} if think == "auto" else {"think": think}
        written = {"max_tokens": max_tokens, "temperature": temperature, "seed": seed + number, **options}
        yield from _speak(model, tokenizer, dialogue, prompt, ids, written)
        turns, stopped = _take(dialogue, toolbox, ids, max_tokens, last=number == max_calls)
        for turn in turns:
            transcript.turns.append(turn)
            yield turn
        if stopped is not None:
            transcript.stopped = stopped
            return


def converse_all(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    questions: Sequence[str],
    *,
    max_calls: int = 8,
    max_tokens: int = 128,
    prompted: bool = False,
    batch_tokens: int = 8192,
) -> list[Transcript]:
    """Answers many questions, each on its own, with greedy decoding in batches.

    Args:
        model, tokenizer, toolbox: as in `converse`.
        questions: what users ask.
        max_calls: of tools, for each answer.
        max_tokens: of each turn of the model.
        prompted: whether each question ends with the list of tools (the control of a baked model).
        batch_tokens: tokens in a batch at most.

    Returns:
        One transcript for each question, in their order.
    """
    if max_calls < 0:
        raise ValueError(f"max_calls {max_calls} must be at least 0")
    if prompted and toolbox is not None:
        questions = [f"{question}\n{toolbox.prompt()}" for question in questions]
    dialogues = [Dialogue(tokenizer, [{"role": "user", "content": question}]) for question in questions]
    transcripts = [Transcript() for _ in questions]
    waiting = list(range(len(questions)))
    for number in range(max_calls + 1):
        prompts = {n: dialogues[n].prompt() for n in waiting}
        for n in waiting:
            if not _fits(model, prompts[n], max_tokens):
                transcripts[n].stopped = "context"
                del prompts[n]
        waiting = list(prompts)
        if not waiting:
            break
        said = generate_batch(model, tokenizer, list(prompts.values()), max_tokens, batch_tokens=batch_tokens)
        unanswered = []
        for n, ids in zip(waiting, said, strict=True):
            turns, stopped = _take(dialogues[n], toolbox, ids, max_tokens, last=number == max_calls)
            transcripts[n].turns += turns
            if stopped is None:
                unanswered.append(n)
            else:
                transcripts[n].stopped = stopped
        waiting = unanswered
    return transcripts


def _take(
    dialogue: Dialogue, toolbox: Toolbox | None, ids: list[int], max_tokens: int, *, last: bool
) -> tuple[list[Turn], Stop | None]:
    """What the model's turn means: its turns, and why to stop (None = go on)."""
    thought, words = dialogue.hear(ids)
    turns = [Turn("thought", thought)] if thought else []
    call = parse_call(words) if toolbox is not None else None
    if call is None or toolbox is None or call.name not in toolbox:
        stopped: Stop = "tokens" if len(ids) >= max_tokens else "answer"
        return [*turns, Turn("answer", words)], stopped
    turns.append(Turn("call", str(call)))
    if last:
        return turns, "calls"
    result = toolbox.call(call)
    dialogue.add_said(ids, words)
    dialogue.add_heard(result.turn())
    return [*turns, Turn("result", result.text, result.ok, result.seconds)], None


def _speak(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dialogue: Dialogue,
    prompt: list[int],
    ids: list[int],
    written: Mapping[str, Any],
) -> Iterator[Piece]:
    """Pieces of the turn as its tokens come; ``ids`` is filled with them."""
    shown = {"thought": 0, "answer": 0}
    for token in generate_tokens(model, tokenizer, prompt, **written):
        ids.append(token)
        thought, words = dialogue.hear(ids)
        if thought.endswith("\ufffd") or words.endswith("\ufffd"):
            continue  # a character whose bytes are not complete yet
        if len(thought) > shown["thought"]:
            yield Piece("thought", thought[shown["thought"] :])
            shown["thought"] = len(thought)
        if len(words) > shown["answer"] and not may_become_call(words):
            yield Piece("answer", words[shown["answer"] :])
            shown["answer"] = len(words)


def _fits(model: PreTrainedModel, prompt: list[int], max_tokens: int) -> bool:
    """Whether prompt and turn fit the model's positions; rotary models without a learned table know no bound."""
    table = getattr(model.config, "n_positions", None)  # learned positions, such as GPT-2's
    return table is None or len(prompt) + max_tokens <= int(table)
