"""`agent-forge eval`: any model on any text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent_forge.data.filters import FilterSettings
from agent_forge.data.gathering import gather
from agent_forge.errors import DataError
from agent_forge.evaluation.bits_per_byte import score
from agent_forge.evaluation.tasks import exact_match

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def evaluate_sources(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    *,
    max_documents: int = 500,
    max_tasks: int = 100,
    max_answer_tokens: int = 200,
) -> list[dict[str, Any]]:
    """One row per source: bits per byte, perplexity, and the share of exact answers where it has tasks.

    Nothing is filtered but what cannot be read, so that figures of different models are about the same text.

    Raises:
        DataError: a source cannot be read or holds no text.
    """
    rows = []
    for source in sources:
        found = gather([source], FilterSettings(min_bytes=1, max_bytes=2**20, min_quality=0.0, near_duplicates=False))
        entries = [entry for group in found.entries.values() for entry in group][:max_documents]
        if not entries:
            raise DataError(f"{source} holds no text")
        measured = score(model, tokenizer, [document for document, _ in entries])
        tasks = [task for _, group in entries for task in group][:max_tasks]
        answers = exact_match(model, tokenizer, tasks, max_tokens=max_answer_tokens) if tasks else None
        rows.append(
            {
                "source": source,
                **measured.to_json(),
                "tasks": len(tasks),
                "task_accuracy": answers.accuracy if answers else None,
            }
        )
    return rows
