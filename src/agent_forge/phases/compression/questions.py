"""What the finished agent answers: questions of the test split with exact answers, asked of the file on disk."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.evaluation.tasks import exact_match

_SHOWN_PER_DOMAIN = 2


def ask(
    agent: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, *, count: int, max_tokens: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Asks up to ``count`` questions per domain.

    Returns:
        Share of exact answers (0-1), overall and by domain; empty where the corpus has no questions. And samples of
        question, answer and what was expected, right or wrong, as they come.
    """
    figures: dict[str, float] = {}
    samples: list[dict[str, Any]] = []
    right = asked = 0.0
    for domain in corpus.domains:
        tasks = corpus.tasks(domain, "test")[:count]
        if not tasks:
            continue
        found = exact_match(agent, tokenizer, tasks, max_tokens=max_tokens)
        figures[f"compression/task_accuracy/{domain}"] = found.accuracy
        right, asked = right + found.accuracy * len(tasks), asked + len(tasks)
        for task, answer in list(zip(tasks, found.answers, strict=True))[:_SHOWN_PER_DOMAIN]:
            samples.append({"prompt": task.prompt, "text": answer, "expected": task.answer, "domain": domain})
    if asked:
        figures["compression/task_accuracy"] = right / asked
    return figures, samples
