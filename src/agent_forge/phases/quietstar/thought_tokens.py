"""Room for two tokens: tokenizer and embeddings grow, and the rows start among those of separators.

Zelikman et al. 2024 (Quiet-STaR, arXiv:2403.09629), section 4.2, start both marks from the row of one separator
("---"). What we do differently: a row is the mean of several separators' rows (the marks of a conversation where there
are some, else punctuation and line breaks), and the two marks differ by a tenth of the distance between separators, so
that the model can tell them apart from the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.tokenizer import add_thoughts, encode_texts, has_marks, mark_ids, thought_ids
from agent_forge.phases.quietstar.thought_sampling import Marks

_PUNCTUATION = ("\n", ".", ":", ";", "---", "\n\n")


@dataclass(frozen=True)
class Resize:
    """What was done, for the manifest.

    Attributes:
        tokens_before, tokens_after: size of the tokenizer.
        rows_before, rows_after: rows of the embedding.
        opening, closing: ids of the marks.
        separators: ids whose rows the new rows started from; empty if the tokens were there already.
    """

    tokens_before: int
    tokens_after: int
    rows_before: int
    rows_after: int
    opening: int
    closing: int
    separators: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**vars(self), "separators": list(self.separators)}


def add_thought_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Resize:
    """Adds ``<think>`` and ``</think>`` to tokenizer and model, in place; does nothing if they are there.

    Args:
        model: any causal language model, tied or not.
        tokenizer: its tokenizer.
    """
    tokens_before = len(tokenizer)
    rows_before = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    separators = _separators(tokenizer)
    added = add_thoughts(tokenizer)
    opening, closing = thought_ids(tokenizer)
    if len(tokenizer) > rows_before:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    if added:
        for table in _tables(model):
            _start(table, separators, (opening, closing))
    rows_after = int(model.get_input_embeddings().num_embeddings)  # type: ignore[arg-type]
    return Resize(
        tokens_before, len(tokenizer), rows_before, rows_after, opening, closing, tuple(separators) if added else ()
    )


def marks_of(tokenizer: PreTrainedTokenizerBase) -> Marks:
    """The ids that thoughts are made with."""
    opening, closing = thought_ids(tokenizer)
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder, opening, closing}
    return Marks(opening, closing, tuple(sorted(special)))


def _tables(model: PreTrainedModel) -> list[torch.Tensor]:
    """Embedding and head; one where they are tied."""
    tables: list[Any] = [model.get_input_embeddings().weight]
    head = model.get_output_embeddings()
    if head is not None and head.weight is not tables[0]:
        tables.append(head.weight)
    return tables


def _separators(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    if has_marks(tokenizer):
        return sorted(mark_ids(tokenizer)[1:])
    found = {ids[0] for ids in encode_texts(tokenizer, _PUNCTUATION) if len(ids) == 1}
    if tokenizer.eos_token_id is not None:
        found.add(int(tokenizer.eos_token_id))
    return sorted(found)


@torch.no_grad()
def _start(table: torch.Tensor, separators: list[int], marks: tuple[int, int]) -> None:
    known = table[separators] if separators else table[: min(marks)]
    mean = known.float().mean(0)
    apart = 0.1 * (known[-1].float() - known[0].float()) / 2
    table[marks[0]] = (mean + apart).to(table.dtype)
    table[marks[1]] = (mean - apart).to(table.dtype)
