"""Sources become documents and tasks in memory: read, cut, filtered, counted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path

from agent_forge.data.documents import Document, Split, Task
from agent_forge.data.filters import Duplicates, FilterReport, FilterSettings, pieces_of, qualities, unreadable
from agent_forge.data.readers import Record, read_hub, read_records
from agent_forge.data.records import to_document
from agent_forge.data.sources import Source, expand_all
from agent_forge.data.synthetic_world import DOMAINS, LEVELS, generate
from agent_forge.errors import DataError

Entry = tuple[Document, tuple[Task, ...]]

_WHOLE_BYTES = 1 << 20
_FEW = 32
"""Fewer documents than this are cut finer."""


@dataclass
class Gathered:
    """What was read and kept, before it is split and written.

    Attributes:
        entries: documents with their tasks, by domain.
        weights: weight of the mixture by domain, where one was given.
        reports: what each source gave.
        fixed: the split of a document (by its key) where the source itself decides it.
    """

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    reports: dict[str, FilterReport] = field(default_factory=dict)
    fixed: dict[str, Split] = field(default_factory=dict)


def gather(
    sources: Sequence[str | Source],
    settings: FilterSettings,
    duplicates: Duplicates | None = None,
    *,
    seed: int = 0,
    synthetic_bytes: int = 6_000_000,
    levels: Sequence[int] = LEVELS,
    refine: bool = False,
) -> Gathered:
    """Reads and filters all sources, in memory.

    Args:
        sources: as for `ingest`, and so are the rest.
        settings: when a document is left out.
        duplicates: what was seen before.
        seed: of the synthetic world.
        synthetic_bytes: size of its training split.
        levels: its difficulties.
        refine: whether a source of few documents is cut finer (for training; evaluation wants whole documents).
    """
    gathered = Gathered()
    seen = duplicates or Duplicates(settings.near_duplicates)
    for source in expand_all(sources):
        if source.name == "synthetic":
            _synthetic(gathered, source, seed, synthetic_bytes, levels)
            continue
        if source.weight is not None:
            gathered.weights[source.domain] = gathered.weights.get(source.domain, 0.0) + source.weight
        report = gathered.reports.setdefault(source.name, FilterReport())
        gathered.entries.setdefault(source.domain, []).extend(_filtered(source, settings, seen, report, refine))
    gathered.entries = {domain: entries for domain, entries in gathered.entries.items() if entries}
    return gathered


def _filtered(
    source: Source, settings: FilterSettings, seen: Duplicates, report: FilterReport, refine: bool
) -> list[Entry]:
    kept: list[Entry] = []
    for document, tasks in _documents(source, settings, report, refine):
        report.pieces += 1
        reason = _reason(document, settings) or seen.seen(document)
        if reason:
            report.drop(reason, document)
        else:
            kept.append((document, tasks))
    if settings.min_quality > 0:
        good = qualities([document for document, _ in kept])
        for (document, _), quality in zip(kept, good, strict=True):
            if quality < settings.min_quality:
                report.drop("low quality", document)
        kept = [entry for entry, quality in zip(kept, good, strict=True) if quality >= settings.min_quality]
    report.kept = len(kept)
    report.kept_bytes = sum(document.num_bytes for document, _ in kept)
    return kept


def _documents(source: Source, settings: FilterSettings, report: FilterReport, refine: bool) -> Iterator[Entry]:
    """Documents of a source; where that makes only a few, they are cut finer, so that there is something to split."""
    with closing(read_hub(source.hub) if source.hub else read_records(source.path or Path())) as records:
        numbered = enumerate(records, start=1)
        first = [_document(source, *entry) for entry in islice(numbered, _FEW)]
        size = settings.max_bytes
        if refine and len(first) < _FEW:
            pieces = sum(len(pieces_of(document, size)) for document, _ in first)
            total = sum(document.num_bytes for document, _ in first)
            if pieces < _FEW:
                size = min(size, max(4 * settings.min_bytes, total // (2 * _FEW)))
        for document, tasks in chain(first, (_document(source, *entry) for entry in numbered)):
            report.records += 1
            yield from _cut(document, tasks, size)


def _document(source: Source, number: int, record: Record) -> Entry:
    return to_document(record, source.domain, f"{source.name} record {number}")


def _cut(document: Document, tasks: tuple[Task, ...], size: int) -> Iterator[Entry]:
    pieces = pieces_of(document, size)
    for place, piece in enumerate(pieces):
        yield piece, tasks if place == len(pieces) - 1 else ()


def _reason(document: Document, settings: FilterSettings) -> str | None:
    if not document.text.strip():
        return "empty"
    if document.num_bytes < settings.min_bytes:
        return "too short"
    if document.turns and document.num_bytes > settings.max_bytes:
        return "too long"
    return "unreadable" if unreadable(document.text) else None


def _synthetic(gathered: Gathered, source: Source, seed: int, size: int, levels: Sequence[int]) -> None:
    report = gathered.reports.setdefault("synthetic", FilterReport())
    domains = [source.domain] if source.domain else list(DOMAINS)
    for domain in domains:
        if source.weight is not None:
            gathered.weights[domain] = gathered.weights.get(domain, 0.0) + source.weight / len(domains)
        wanted, seen, misses = size // len(domains), set(), 0
        entries = gathered.entries.setdefault(domain, [])
        for item in generate(seed, domain, levels):
            report.records += 1
            key = item.document.key()
            if key in seen:
                report.drop("exact duplicate", item.document)
                misses += 1
                if misses > 2000:
                    break  # the easiest levels have only so many different items
                continue
            seen.add(key)
            misses = 0
            gathered.fixed[key] = item.split
            entries.append((item.document, item.tasks))
            report.kept += 1
            report.kept_bytes += item.document.num_bytes
            if item.split == "train":
                wanted -= item.document.num_bytes
                if wanted <= 0:
                    break
    report.pieces = report.records


def held_out(sources: Sequence[Source], settings: FilterSettings) -> tuple[Gathered, Duplicates]:
    """Held-out files, unfiltered but for empty documents; what they hold is remembered and never trained on."""
    held, seen = Gathered(), Duplicates(settings.near_duplicates)
    whole = replace(settings, max_bytes=_WHOLE_BYTES)
    for source in sources:
        report = held.reports.setdefault(source.name, FilterReport())
        entries = held.entries.setdefault(source.domain, [])
        for document, tasks in _documents(source, whole, report, False):
            report.pieces += 1
            if not document.text.strip():
                report.drop("empty", document)
                continue
            seen.hold(document)
            entries.append((document, tasks))
            report.kept += 1
            report.kept_bytes += document.num_bytes
        if not entries:
            raise DataError(f"{source.name} holds no text to evaluate on")
    return held, seen
