"""How equal a page and the model are: the page's own modules, run in Node, answer the same questions as PyTorch.

What is compared is what the agent does by its design: the tokens it reads, every token that it says in each attempt
(thoughts, calls and answers), and the turns of the attempt that won, with the results of its tools.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dialogue import Dialogue
from agent_forge.agent.interpreter import Equip, Memo, answer
from agent_forge.agent.routes import FirstPass
from agent_forge.agent.toolbox import Toolbox
from agent_forge.errors import HandoffError
from agent_forge.phases.edge.web_runtime import need_node

CHECK = Path(__file__).with_name("web") / "check.mjs"
ENOUGH = 600
"""Tokens after which no further question is asked: of a large model that never stops, or of a small one that does.
Counted is the first attempt at each question."""
_SECONDS = 1800


@dataclass(frozen=True)
class Asked:
    """The agent that a page is compared with.

    Attributes:
        model, tokenizer, toolbox: it.
        design: how it goes about a question.
        first_pass, equip: of the design, as `agent_forge.agent.interpreter.answer` takes them.
        max_tokens: of the words of each turn.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    toolbox: Toolbox | None
    design: AgentDesign
    first_pass: FirstPass | None = None
    equip: Equip | None = None
    max_tokens: int = 200


@dataclass(frozen=True)
class Answer:
    """What an agent did with a question.

    Attributes:
        prompt: the tokens that it read first.
        attempts: all that it said in each attempt, turn after turn.
        turns: ``(kind, text)`` of thoughts, calls, results and the answer of the attempt that won.
    """

    prompt: list[int]
    attempts: list[list[int]]
    turns: list[tuple[str, str]]


def web_parity(asked: Asked, folder: Path, questions: Sequence[str]) -> dict[str, int]:
    """Asks model and page the same questions.

    Args:
        asked: the agent.
        folder: its page.
        questions: to ask.

    Returns:
        ``compared_tokens``, ``equal_tokens``, ``compared_answers`` and ``equal_answers`` (equal turn by turn).

    Raises:
        HandoffError: the page cannot be opened, or it reads other tokens than the model.
    """
    return compared_answers(asked, questions, page_answers(folder, questions, asked.max_tokens))


def compared_answers(asked: Asked, questions: Sequence[str], answers: Sequence[Answer]) -> dict[str, int]:
    """The figures of `web_parity` for what a page answered.

    Raises:
        HandoffError: the page reads other tokens than the model.
    """
    compared, equal, same = 0, 0, 0
    for question, there in zip(questions, answers, strict=False):
        here = model_answer(asked, question)
        if here.prompt != there.prompt:
            raise HandoffError(f"the page's tokenizer reads other tokens than the model's: {question!r}")
        attempts = zip_longest(here.attempts, there.attempts, fillvalue=())
        pairs = list(chain.from_iterable(zip_longest(*each) for each in attempts))
        compared += len(pairs)
        equal += sum(one == other for one, other in pairs)
        same += here.turns == there.turns
    return {
        "compared_tokens": compared, "equal_tokens": equal,
        "compared_answers": len(answers), "equal_answers": same,
    }  # fmt: skip


def page_answers(folder: Path, questions: Sequence[str], max_tokens: int) -> list[Answer]:
    """What the page does with the first questions, up to `ENOUGH` tokens, run in Node.

    Raises:
        HandoffError: it cannot be opened.
        ConfigError: there is no Node.
    """
    asked = {
        "folder": str(folder.resolve()), "questions": list(questions), "maxTokens": max_tokens,
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
    return [_answer(row) for row in said["answers"]]


def _answer(row: Mapping[str, Any]) -> Answer:
    return Answer(row["prompt"], row["attempts"], [(turn["kind"], turn["text"]) for turn in row["turns"]])


def model_answer(asked: Asked, question: str) -> Answer:
    """What the model does with a question, with the tokens of all its attempts."""
    messages = [{"role": "user", "content": question}]
    memo: Memo = {}
    (found,) = answer(
        asked.model, asked.tokenizer, asked.toolbox, asked.design, [messages],
        first_pass=asked.first_pass, equip=asked.equip, max_tokens=asked.max_tokens, memo=memo,
    )  # fmt: skip
    return Answer(
        Dialogue(asked.tokenizer, messages).prompt(),
        [list(chain.from_iterable(attempt.transcript.ids)) for attempt in memo.values()],
        [(turn.kind, turn.text) for turn in found.transcript.turns],
    )
