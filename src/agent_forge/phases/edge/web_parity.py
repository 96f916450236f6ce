"""How equal a page and the model are: the page's own modules, run in Node, answer the same questions as PyTorch.

What is compared is what the agent does, greedily: the tokens it reads, every token it says (thoughts, calls and
answers), and the turns with the results of its tools.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.calls import parse_call
from agent_forge.agent.dialogue import Dialogue
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.tokenizer import has_thoughts
from agent_forge.errors import HandoffError
from agent_forge.model.generation import generate_tokens
from agent_forge.phases.edge.web_runtime import need_node

CHECK = Path(__file__).with_name("web") / "check.mjs"
ENOUGH = 600
"""Tokens after which no further question is asked: of a large model that never stops, or of a small one that does."""
_SECONDS = 1800


@dataclass(frozen=True)
class Answer:
    """What an agent did with a question.

    Attributes:
        prompt: the tokens that it read first.
        tokens: all that it said, turn after turn.
        turns: ``(kind, text)`` of thoughts, calls, results and the answer.
    """

    prompt: list[int]
    tokens: list[int]
    turns: list[tuple[str, str]]


def web_parity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    folder: Path,
    questions: Sequence[str],
    options: Mapping[str, Any],
) -> dict[str, int]:
    """Asks model and page the same questions.

    Args:
        model, tokenizer, toolbox: the agent.
        folder: its page.
        questions: to ask.
        options: ``maxTokens``, ``maxCalls``, ``budget`` and ``think`` of the page.

    Returns:
        ``compared_tokens``, ``equal_tokens``, ``compared_answers`` and ``equal_answers`` (equal turn by turn).

    Raises:
        HandoffError: the page cannot be opened, or it reads other tokens than the model.
    """
    return compared_answers(model, tokenizer, toolbox, questions, page_answers(folder, questions, options), options)


def compared_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    questions: Sequence[str],
    answers: Sequence[Answer],
    options: Mapping[str, Any],
) -> dict[str, int]:
    """The figures of `web_parity` for what a page answered.

    Raises:
        HandoffError: the page reads other tokens than the model.
    """
    compared, equal, same = 0, 0, 0
    for question, there in zip(questions, answers, strict=False):
        here = model_answer(model, tokenizer, toolbox, question, options)
        if here.prompt != there.prompt:
            raise HandoffError(f"the page's tokenizer reads other tokens than the model's: {question!r}")
        pairs = list(zip_longest(here.tokens, there.tokens))
        compared += len(pairs)
        equal += sum(one == other for one, other in pairs)
        same += here.turns == there.turns
    return {
        "compared_tokens": compared, "equal_tokens": equal,
        "compared_answers": len(answers), "equal_answers": same,
    }  # fmt: skip


def page_answers(folder: Path, questions: Sequence[str], options: Mapping[str, Any]) -> list[Answer]:
    """What the page does with the first questions, up to `ENOUGH` tokens, run in Node.

    Raises:
        HandoffError: it cannot be opened.
        ConfigError: there is no Node.
    """
    asked = {
        "folder": str(folder.resolve()), "questions": list(questions), "options": dict(options),
        "enough": ENOUGH,
    }  # fmt: skip
    done = subprocess.run(
        [need_node(), str(CHECK)],
        input=json.dumps(asked), capture_output=True, text=True, timeout=_SECONDS, check=False, encoding="utf-8",
    )  # fmt: skip
    if done.returncode or not done.stdout:
        raise HandoffError(f"the page did not run in Node: {' '.join(done.stderr.split())[-300:]}")
    said: dict[str, Any] = json.loads(done.stdout)
    if "error" in said:
        raise HandoffError(f"the page cannot be opened: {said['error']}")
    return [
        Answer(row["prompt"], row["tokens"], [(turn["kind"], turn["text"]) for turn in row["turns"]])
        for row in said["answers"]
    ]


def model_answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox | None,
    question: str,
    options: Mapping[str, Any],
) -> Answer:
    """What the model does with a question, as `agent_forge.agent.runtime.converse`, with its tokens."""
    dialogue = Dialogue(tokenizer, [{"role": "user", "content": question}])
    thinks = options["think"] is not False and has_thoughts(tokenizer)
    room = options["maxTokens"] + (options["budget"] + 2 if thinks else 0)
    choice = {"max_tokens": room, "think": options["think"], "thought_budget": options["budget"]}
    answer = Answer(dialogue.prompt(), [], [])
    for number in range(options["maxCalls"] + 1):
        ids = list(generate_tokens(model, tokenizer, dialogue.prompt(), **choice))
        answer.tokens.extend(ids)
        thought, words = dialogue.hear(ids)
        if thought:
            answer.turns.append(("thought", thought))
        call = None if toolbox is None else parse_call(words)
        if call is None or toolbox is None or call.name not in toolbox:
            answer.turns.append(("answer", words))
            break
        answer.turns.append(("call", str(call)))
        if number == options["maxCalls"]:
            break
        result = toolbox.call(call)
        answer.turns.append(("result", result.text))
        dialogue.add_said(ids, words)
        dialogue.add_heard(result.turn())
    return answer
