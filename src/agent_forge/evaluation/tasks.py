"""Tasks with exact answers: written by greedy decoding and compared, or chosen by likelihood among choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Task
from agent_forge.data.tokenizer import encode_texts, has_marks, has_thoughts, mark_ids, split_thought, start_ids
from agent_forge.evaluation.bits_per_byte import window_nats
from agent_forge.model.row_generation import generate_rows
from agent_forge.model.thought_rule import THOUGHT_BUDGET, Think

_ANSWER = re.compile(r"the answer is[:\s]+(.*)", re.IGNORECASE)
_COMMA = re.compile(r"(?<=\d),(?=\d{3})")
_ARTICLE = re.compile(r"^(the|an|a)\s+")


@dataclass(frozen=True)
class TaskScore:
    """What a model got right.

    Attributes:
        accuracy: fraction of all tasks, 0–1.
        by_level: fraction by difficulty (tasks that have one).
        by_kind: fraction by kind.
        answers: what the model said, task by task.
        correct: bool [N].
    """

    accuracy: float
    by_level: dict[int, float]
    by_kind: dict[str, float]
    answers: list[str]
    correct: np.ndarray

    @classmethod
    def of(cls, tasks: Sequence[Task], answers: list[str], correct: np.ndarray) -> TaskScore:
        """The score of answers already judged."""
        levels = sorted({task.level for task in tasks if task.level is not None})
        by_level = {n: float(correct[[task.level == n for task in tasks]].mean()) for n in levels}
        kinds = sorted({task.kind for task in tasks})
        by_kind = {kind: float(correct[[task.kind == kind for task in tasks]].mean()) for kind in kinds}
        return cls(float(correct.mean()), by_level, by_kind, answers, correct)

    def to_json(self) -> dict[str, Any]:
        """Accuracies, without the answers."""
        return {
            "accuracy": self.accuracy,
            "by_level": {str(level): value for level, value in self.by_level.items()},
            "by_kind": self.by_kind,
            "tasks": len(self.answers),
        }


def normalised(answer: str) -> str:
    """What is compared: the part after "the answer is" if there is one, in lower case, without article, outer
    punctuation, thousands separators and doubled spaces.
    """
    found = _ANSWER.findall(answer)
    text = found[-1] if found else answer
    text = _COMMA.sub("", " ".join(text.split()).casefold()).strip(" .!\"'")
    return _ARTICLE.sub("", text)


@torch.inference_mode()
def exact_match(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    max_tokens: int = 128,
    *,
    batch_tokens: int = 8192,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
) -> TaskScore:
    """Asks each task once. Tasks with choices are decided by the likelihood of each choice, the others by greedy
    decoding. Of what a model writes only what stands behind ``</think>`` is compared.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: its tokenizer.
        tasks: what to ask.
        max_tokens: tokens of an answer at most; thoughts come on top.
        batch_tokens: tokens in a batch at most, answers and padding included.
        think, thought_budget: as in `agent_forge.model.generation.generate_tokens`; choices are made without thoughts.

    Raises:
        ValueError: there is no task, or ``think`` is True and the model has no thought tokens.
    """
    if not tasks:
        raise ValueError("there are no tasks to ask")
    answers = [""] * len(tasks)
    chosen = [n for n, task in enumerate(tasks) if task.choices]
    written = [n for n, task in enumerate(tasks) if not task.choices]
    for n, answer in zip(chosen, _choose(model, tokenizer, [tasks[n] for n in chosen], batch_tokens), strict=True):
        answers[n] = answer
    prompts = prompt_ids(tokenizer, [tasks[n].prompt for n in written])
    options: dict[str, Any] = {"batch_tokens": batch_tokens, "think": think, "thought_budget": thought_budget}
    for n, answer in zip(written, write(model, tokenizer, prompts, max_tokens, **options), strict=True):
        answers[n] = answer
    right = [normalised(said) == normalised(task.answer) for said, task in zip(answers, tasks, strict=True)]
    return TaskScore.of(tasks, answers, np.asarray(right, bool))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[list[int]]:
    """Tokens of each question up to its answer: with our marks, else the tokenizer's chat template, else lines."""
    if has_marks(tokenizer):
        bos, end, user, assistant = mark_ids(tokenizer)
        return [[bos, user, *ids, end, assistant] for ids in encode_texts(tokenizer, prompts)]
    if tokenizer.chat_template:
        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        shown = [tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True) for said in messages]
        return [list(tokenizer.encode(text, add_special_tokens=False)) for text in shown]
    start = start_ids(tokenizer)
    return [[*start, *ids] for ids in encode_texts(tokenizer, [f"\n{prompt}\n\n" for prompt in prompts])]


def write(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_tokens: int,
    *,
    batch_tokens: int = 8192,
    think: Think = "auto",
    thought_budget: int = THOUGHT_BUDGET,
) -> list[str]:
    """What is said in greedy continuations, thoughts left out; prompts of like length together, padded on the left.

    ``max_tokens`` bounds what is said; a thought comes on top.
    """
    room = thought_budget + 2 if has_thoughts(tokenizer) and think is not False else 0
    said = generate_rows(
        model, tokenizer, prompts, max_tokens + room,
        batch_tokens=batch_tokens, think=think, thought_budget=thought_budget,
    )  # fmt: skip
    words = [split_thought(tokenizer, ids)[1] if has_thoughts(tokenizer) else ids for ids in said]
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in words]
    return texts if has_marks(tokenizer) else [text.split("\n\n")[0] for text in texts]


def _choose(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], batch_tokens: int
) -> list[str]:
    """The choice with the fewest nats per byte (per choice for minimal pairs, whose choices are equally long)."""
    windows: list[tuple[int, list[int], int]] = []
    owners: list[tuple[int, int]] = []
    for n, task in enumerate(tasks):
        for place, (given, scored) in enumerate(_choice_ids(tokenizer, task)):
            windows.append((len(owners), [*given, *scored], len(scored)))
            owners.append((n, place))
    nats = np.zeros(len(owners))
    for number, found in window_nats(model, windows, batch_tokens=batch_tokens):
        nats[number] = found
    best: dict[int, tuple[float, int]] = {}
    for (n, place), found in zip(owners, nats.tolist(), strict=True):
        choice = tasks[n].choices[place]
        cost = found if tasks[n].kind.startswith("pair/") else found / max(1, len(choice.encode()))
        best[n] = min(best.get(n, (np.inf, 0)), (cost, place))
    return [task.choices[best[n][1]] for n, task in enumerate(tasks)]


def _choice_ids(tokenizer: PreTrainedTokenizerBase, task: Task) -> list[tuple[list[int], list[int]]]:
    if task.kind == "ending" or task.kind.startswith("pair/"):
        start = start_ids(tokenizer) + encode_texts(tokenizer, [task.prompt])[0]
        space = " " if task.prompt else ""
        parts = [(start, ids) for ids in encode_texts(tokenizer, [f"{space}{choice}" for choice in task.choices])]
        # without an opening mark the first token of a text cannot be predicted: it is given
        return [(given, ids) if given else (ids[:1], ids[1:]) for given, ids in parts]
    (given,) = prompt_ids(tokenizer, [task.prompt])
    end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    return [(given, [*ids, *end]) for ids in encode_texts(tokenizer, list(task.choices))]
