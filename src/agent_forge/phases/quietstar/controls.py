"""Anti-theatre: the same questions with the model's thoughts, without, with those of others, and with filler.

Pause tokens as a control: Goyal et al. 2024 (arXiv:2310.02226); filler instead of reasoning: Lanham et al. 2023
(arXiv:2307.13702, section 2.5) and Pfau et al. 2024 (arXiv:2404.15758).

What we do differently:
1. Others' thoughts come from questions of the same kind: they look right and are about something else.
2. Filler has exactly the length of the thought that it replaces, hence the same number of forward passes.
3. All four answer through the same code; only the tokens between the marks differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.documents import Task
from agent_forge.data.tokenizer import encode_texts, split_thought, thought_ids
from agent_forge.evaluation.tasks import normalised, prompt_ids
from agent_forge.model.row_generation import generate_rows
from agent_forge.phases.quietstar.coherence import Coherence, coherence
from agent_forge.phases.quietstar.habit import filler_id
from agent_forge.phases.quietstar.hardest_tokens import answer_token_nats


@dataclass(frozen=True)
class Controls:
    """What came of the same N questions under each condition.

    Attributes:
        thoughts: text of each thought.
        tokens: of each thought.
        own, off, shuffled, filler: bool [N], whether the answer was right.
        skipped: bool [N], thoughts that were not injected.
        on: bool [N], right with thoughts injected where they are coherent, and none where not.
        coherence: of each thought.
        answers: said after each thought.
        questions: int64 [M], to which question each token of the right answers belongs.
        nats: float64 [M] of these tokens by condition: own, off, shuffled, filler.
    """

    thoughts: list[str]
    tokens: np.ndarray
    own: np.ndarray
    off: np.ndarray
    shuffled: np.ndarray
    filler: np.ndarray
    skipped: np.ndarray
    coherence: Coherence
    answers: list[str]
    questions: np.ndarray
    nats: Mapping[str, np.ndarray]

    @property
    def on(self) -> np.ndarray:
        """Right answers with injection and its fallback."""
        return np.where(self.skipped, self.off, self.own)


def run_controls(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    *,
    thought_budget: int,
    answer_tokens: int,
    coherence_bound: float,
    batch_tokens: int = 8192,
) -> Controls:
    """Asks each task four times.

    Args:
        model: with thought tokens, in evaluation mode.
        tokenizer: its tokenizer.
        tasks: without choices.
        thought_budget: tokens of a thought at most.
        answer_tokens: tokens of an answer at most.
        coherence_bound: thoughts below it are not injected.
        batch_tokens: tokens in a batch at most.

    Raises:
        ValueError: there is no task.
    """
    if not tasks:
        raise ValueError("there are no tasks to ask")
    prompts = prompt_ids(tokenizer, [task.prompt for task in tasks])
    # 1. thoughts, written under the budget
    written = generate_rows(
        model, tokenizer, prompts, thought_budget + 2, think=True, thought_budget=thought_budget,
        batch_tokens=batch_tokens, stop_ids=[thought_ids(tokenizer)[1]],
    )  # fmt: skip
    thoughts = [split_thought(tokenizer, ids)[0] for ids in written]
    # 2. answers after each kind of thought
    given = conditions(tokenizer, tasks, thoughts)
    said = {
        name: answers_after(model, tokenizer, prompts, inner, answer_tokens, batch_tokens=batch_tokens)
        for name, inner in given.items()
    }
    right = {name: judged(tokenizer, tasks, ids) for name, ids in said.items()}
    # 3. how surprising the right answers are after each kind of thought
    wanted = encode_texts(tokenizer, [task.answer for task in tasks])
    nats = {
        name: answer_token_nats(model, led(tokenizer, prompts, inner), wanted, batch_tokens=batch_tokens)
        for name, inner in given.items()
    }
    # 4. which thoughts are injected at all
    found = coherence(model, tokenizer, prompts, thoughts, said["own"], batch_tokens=batch_tokens)
    return Controls(
        thoughts=[str(tokenizer.decode(ids)) for ids in thoughts],
        tokens=np.asarray([len(ids) for ids in thoughts]),
        skipped=found.whole < coherence_bound,
        coherence=found,
        answers=[str(tokenizer.decode(ids, skip_special_tokens=True)) for ids in said["own"]],
        questions=np.repeat(np.arange(len(tasks)), [len(ids) for ids in wanted]),
        nats=nats,
        **right,
    )


def conditions(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], thoughts: list[list[int]]
) -> dict[str, list[list[int]] | None]:
    """What stands between the marks under each condition; None = no marks either."""
    filler = filler_id(tokenizer)
    return {
        "own": thoughts,
        "shuffled": [thoughts[other] for other in others(tasks)],
        "filler": [[filler] * len(thought) for thought in thoughts],
        "off": None,
    }


def answers_after(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    thoughts: Sequence[Sequence[int]] | None,
    answer_tokens: int,
    *,
    batch_tokens: int = 8192,
) -> list[list[int]]:
    """Tokens said after given thoughts; None = without any, not even marks."""
    prompts = led(tokenizer, prompts, thoughts)
    return generate_rows(model, tokenizer, prompts, answer_tokens, think=False, batch_tokens=batch_tokens)


def led(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[int]], thoughts: Sequence[Sequence[int]] | None
) -> Sequence[Sequence[int]]:
    """Prompts with a thought between marks behind each; None = as they are."""
    if thoughts is None:
        return prompts
    opening, closing = thought_ids(tokenizer)
    return [[*prompt, opening, *thought, closing] for prompt, thought in zip(prompts, thoughts, strict=True)]


def judged(tokenizer: PreTrainedTokenizerBase, tasks: Sequence[Task], said: Sequence[Sequence[int]]) -> np.ndarray:
    """bool [N]: whether what was said is the answer."""
    texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)).split("\n\n")[0] for ids in said]
    return np.asarray(
        [normalised(text) == normalised(task.answer) for text, task in zip(texts, tasks, strict=True)], bool
    )


def others(tasks: Sequence[Task]) -> list[int]:
    """For each task another one: the next of its kind, or the next at all where it is alone."""
    groups: dict[str, list[int]] = {}
    for number, task in enumerate(tasks):
        groups.setdefault(task.kind, []).append(number)
    found = list(range(len(tasks)))
    for members in groups.values():
        for place, number in enumerate(members):
            found[number] = members[(place + 1) % len(members)] if len(members) > 1 else (number + 1) % len(tasks)
    return found
