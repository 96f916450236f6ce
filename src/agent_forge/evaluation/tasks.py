"""Tasks with exact answers: written by greedy decoding and compared, or chosen by likelihood among choices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Task
from agent_forge.data.tokenizer import encode_texts, has_marks, mark_ids, start_ids
from agent_forge.evaluation.bits_per_byte import window_nats

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
) -> TaskScore:
    """Asks each task once. Tasks with choices are decided by the likelihood of each choice, the others by greedy
    decoding.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: its tokenizer.
        tasks: what to ask.
        max_tokens: tokens of an answer at most.
        batch_tokens: tokens in a batch at most, answers and padding included.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("there are no tasks to ask")
    answers = [""] * len(tasks)
    chosen = [n for n, task in enumerate(tasks) if task.choices]
    written = [n for n, task in enumerate(tasks) if not task.choices]
    for n, answer in zip(chosen, _choose(model, tokenizer, [tasks[n] for n in chosen], batch_tokens), strict=True):
        answers[n] = answer
    prompts = prompt_ids(tokenizer, [tasks[n].prompt for n in written])
    for n, answer in zip(written, write(model, tokenizer, prompts, max_tokens, batch_tokens=batch_tokens), strict=True):
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
    temperature: float = 0.0,
    seed: int = 0,
) -> list[str]:
    """Continuations, prompts of like length together, padded on the left.

    Args:
        model: any causal language model of transformers that can ``generate``.
        tokenizer: its tokenizer.
        prompts: token ids of each.
        max_tokens: tokens of an answer at most.
        batch_tokens: tokens in a batch at most, answers and padding included.
        temperature: 0 = always the likeliest token; else a draw.
        seed: of the draws; torch's own generator comes back as it was.
    """
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda n: (-len(prompts[n]), n))
    pad = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    device = next(model.parameters()).device
    settings = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=temperature > 0,
        temperature=temperature if temperature > 0 else None,
        top_k=0 if temperature > 0 else None,
        use_cache=True,
        pad_token_id=pad,
        eos_token_id=tokenizer.eos_token_id,
    )
    at = 0
    while at < len(order):
        longest = len(prompts[order[at]])
        rows = order[at : at + max(1, batch_tokens // (longest + max_tokens))]
        at += len(rows)
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, n in enumerate(rows):
            ids[place, longest - len(prompts[n]) :] = torch.tensor(prompts[n])
            mask[place, longest - len(prompts[n]) :] = 1
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else [], enabled=temperature > 0):
            if temperature > 0:
                torch.manual_seed(seed + at)
            said = model.generate(ids.to(device), attention_mask=mask.to(device), generation_config=settings)  # type: ignore[operator]
        for n, row in zip(rows, said[:, longest:].tolist(), strict=True):
            text = str(tokenizer.decode(_until(row, tokenizer.eos_token_id), skip_special_tokens=True))
            answers[n] = text if has_marks(tokenizer) else text.split("\n\n")[0]
    return answers


def _until(ids: list[int], stop: int | None) -> list[int]:
    return ids[: ids.index(stop)] if stop in ids else ids


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
