"""What sources hold before anything is trained: documents, bytes, tokens, and what would be left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from agent_forge.data.documents import Document
from agent_forge.data.filters import Duplicates, FilterSettings
from agent_forge.data.gathering import gather
from agent_forge.data.sources import Source, expand_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TOKENIZER_BYTES = 4 << 20
_VOCABULARY = 4096


def inspect_sources(
    sources: Sequence[str | Source],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    filters: FilterSettings | None = None,
    synthetic_bytes: int = 300_000,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per source, in the order given.

    Args:
        sources: as for `ingest`.
        tokenizer: what to count tokens with; None trains one of 4,096 tokens on the first 4 MB of what is kept.
        filters: when a document is left out.
        synthetic_bytes: how much of the synthetic world is looked at.
        seed: of the synthetic world.

    Returns:
        Rows with ``source``, ``domain``, ``documents`` (before filters), ``kept``, ``bytes`` and ``tokens`` (of what is
        kept), ``bytes_per_token``, ``tasks``, ``dropped`` (reason → number), ``examples`` (reason → openings).

    Raises:
        DataError: a source cannot be read.
    """
    settings = filters or FilterSettings()
    seen = Duplicates(settings.near_duplicates)
    rows: list[dict[str, Any]] = []
    kept: list[list[Document]] = []
    for source in expand_all(sources):
        found = gather([source], settings, seen, seed=seed, synthetic_bytes=synthetic_bytes, refine=True)
        report = found.reports[source.name]
        entries = [entry for own in found.entries.values() for entry in own]
        kept.append([document for document, _ in entries])
        rows.append(
            {
                "source": source.name,
                "domain": source.domain or ", ".join(sorted(found.entries)),
                "documents": report.pieces,
                "kept": report.kept,
                "bytes": report.kept_bytes,
                "tasks": sum(len(tasks) for _, tasks in entries),
                "dropped": dict(sorted(report.dropped.items())),
                "examples": dict(sorted(report.examples.items())),
            }
        )
    counts = _token_counts(kept, tokenizer)
    for row, count in zip(rows, counts, strict=True):
        row["tokens"] = count
        row["bytes_per_token"] = round(row["bytes"] / count, 3) if count else None
    return rows


def _token_counts(groups: Sequence[Sequence[Document]], tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
    from agent_forge.data.tokenizer import encode_documents, train_tokenizer

    if tokenizer is None:
        sample, left = [], _TOKENIZER_BYTES
        longest = max(map(len, groups), default=0)
        for place in range(longest):  # a document of each source in turn, so that none is left out
            for group in groups:
                if place < len(group) and left > 0:
                    sample.append(group[place].text)
                    left -= group[place].num_bytes
            if left <= 0:
                break
        tokenizer = train_tokenizer(sample, _VOCABULARY)
    return [sum(len(encoded.ids) for encoded in encode_documents(tokenizer, group)) for group in groups]
