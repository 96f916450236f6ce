"""Sources become a corpus: a folder of split, filtered documents and tasks that every phase reads.

```
corpus.json                     domains, mixture, specialties, what was dropped and why, digests
train|selection|test/<domain>.jsonl.zst        documents
train|selection|test/<domain>.tasks.jsonl.zst  tasks
```

A document's split follows from a hash of its words, and documents are stored in the order of that hash: the same
text gives the same bytes, in whatever order and under whatever file names it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import zstandard

from agent_forge.contract import digest_of
from agent_forge.data.documents import SPLITS, Document, Split, Task, unit_of
from agent_forge.data.filters import FilterSettings
from agent_forge.data.gathering import Entry, Gathered, gather, held_out
from agent_forge.data.sources import Source, expand_all, lack_tools
from agent_forge.data.specialties import SPECIALTIES, assign, in_three
from agent_forge.data.synthetic_world import LEVELS, TOOLS
from agent_forge.errors import ArtifactCorrupt, DataError

FORMAT = 1
FEWEST_DOCUMENTS = 12
FEWEST_BYTES = 2048
HELD_FRACTION = 0.02
MOST_HELD_DOCUMENTS = 512
MOST_HELD_BYTES = 512 << 10


def ingest(
    sources: Sequence[str | Source],
    folder: Path,
    *,
    seed: int,
    eval_data: Sequence[str | Source] = (),
    mixture: Mapping[str, float] | None = None,
    filters: FilterSettings | None = None,
    synthetic_bytes: int = 6_000_000,
    levels: Sequence[int] = LEVELS,
    tool_share: float = 0.0,
) -> dict[str, Any]:
    """Reads sources and writes a corpus folder; nothing is written unless all of them can be used.

    Args:
        sources: each ``[domain=]path[:weight]``; see `agent_forge.data.sources`. ``synthetic`` is the synthetic world.
        folder: where to; made if missing, must be empty.
        seed: of the synthetic world (real text does not depend on it).
        eval_data: held-out files, each a test set of its own; documents of ``sources`` that repeat one are dropped.
        mixture: weights by domain that override those of the sources.
        filters: when a document is left out.
        synthetic_bytes: size of the synthetic world's training split.
        levels: its difficulties, of 1–10.
        tool_share: share of the mixture, 0–1, for conversations with tools from the synthetic world, which are added
            where the sources have none of them: this share of ``synthetic_bytes``; 0 = nothing is added.

    Returns:
        The content of corpus.json.

    Raises:
        DataError: a source cannot be read or there is too little text.
    """
    settings = filters or FilterSettings()
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder} is not empty; a corpus is written into a folder of its own")
    held, duplicates = held_out(expand_all(eval_data, each_its_own=True), settings)
    world: dict[str, Any] = {"seed": seed, "synthetic_bytes": synthetic_bytes, "levels": levels}
    trained = expand_all(sources)
    gathered = gather(trained, settings, duplicates, **world, refine=True)
    added = {TOOLS} if tool_share > 0 and lack_tools(trained) else set()
    if clash := sorted(set(held.entries) & (set(gathered.entries) | added)):
        raise DataError(f"held-out data needs a name of its own, {clash} are domains; write e.g. {clash[0]}-eval=PATH")
    _check_enough(gathered)
    if len(gathered.entries) < len(SPECIALTIES):
        gathered = _thirds(gathered)
    shares = _shares(gathered, mixture)
    if added:
        world["synthetic_bytes"] = max(FEWEST_BYTES, int(tool_share * synthetic_bytes))
        _add(gathered, gather([Source(None, TOOLS)], settings, **world))
        shares = _with_tools(shares, tool_share)
    facts = _facts(gathered, held, shares, seed)
    splits = {domain: _split(entries, gathered.fixed) for domain, entries in sorted(gathered.entries.items())}
    splits |= {domain: {"test": entries} for domain, entries in sorted(held.entries.items())}
    _write(folder, splits, facts)
    return facts


def _check_enough(gathered: Gathered) -> None:
    count = sum(len(entries) for entries in gathered.entries.values())
    size = sum(document.num_bytes for entries in gathered.entries.values() for document, _ in entries)
    if count >= FEWEST_DOCUMENTS and size >= FEWEST_BYTES:
        return
    dropped: dict[str, int] = {}
    for report in gathered.reports.values():
        for reason, number in report.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + number
    why = (
        f" ({', '.join(f'{number} {reason}' for reason, number in sorted(dropped.items()))} dropped)" if dropped else ""
    )
    raise DataError(
        f"too little text: {count} documents with {size} bytes are left{why}; at least {FEWEST_DOCUMENTS} "
        f"documents and {FEWEST_BYTES} bytes are needed for three splits"
    )


def _thirds(gathered: Gathered) -> Gathered:
    """One or two domains become three or six, so that there is something to specialise in."""
    parted = Gathered(reports=gathered.reports, fixed=gathered.fixed)
    for domain, entries in gathered.entries.items():
        total = sum(document.num_bytes for document, _ in entries)
        for (document, tasks), specialty in zip(entries, in_three([d for d, _ in entries]), strict=True):
            name = f"{domain}-{specialty}"
            renamed = Document(document.text, name, document.level, document.turns)
            parted.entries.setdefault(name, []).append((renamed, tasks))
        if domain in gathered.weights:
            for specialty in SPECIALTIES:
                own = sum(document.num_bytes for document, _ in parted.entries.get(f"{domain}-{specialty}", []))
                parted.weights[f"{domain}-{specialty}"] = gathered.weights[domain] * own / total
    return parted


def _add(gathered: Gathered, more: Gathered) -> None:
    """What another look brought."""
    for domain, entries in more.entries.items():
        gathered.entries.setdefault(domain, []).extend(entries)
    for name, report in more.reports.items():  # who reads another domain of the synthetic world has a report of it
        gathered.reports[f"{name} ({TOOLS})" if name in gathered.reports else name] = report
    gathered.fixed.update(more.fixed)


def _with_tools(shares: Mapping[str, float], share: float) -> dict[str, float]:
    """Conversations with tools get their share, unless the sources give that domain a larger one."""
    share = max(share, shares.get(TOOLS, 0.0))
    rest = sum(own for domain, own in shares.items() if domain != TOOLS) or 1.0
    found = {domain: own / rest * (1 - share) for domain, own in shares.items() if domain != TOOLS}
    return {domain: round(own, 6) for domain, own in sorted({**found, TOOLS: share}.items())}


def _shares(gathered: Gathered, mixture: Mapping[str, float] | None) -> dict[str, float]:
    """Share of each domain, summing to 1."""
    domains = sorted(gathered.entries)
    sizes = {d: sum(document.num_bytes for document, _ in gathered.entries[d]) for d in domains}
    weights = {d: float(w) for d, w in (mixture or gathered.weights).items() if w > 0}
    if unknown := sorted(set(weights) - set(domains)):
        raise DataError(f"the mixture names {unknown}, but the data has {domains}")
    if not weights:
        # the square root keeps a large source from drowning the small ones, which are then seen more often
        weights = {d: sizes[d] ** 0.5 for d in domains}
    total = sum(weights.values())
    return {d: round(weights.get(d, 0.0) / total, 6) for d in domains}


def _facts(gathered: Gathered, held: Gathered, shares: Mapping[str, float], seed: int) -> dict[str, Any]:
    domains = sorted(gathered.entries)
    trained = {d: [document for document, _ in gathered.entries[d][:256]] for d in domains if shares[d] > 0}
    given = assign(trained)
    specialties = {}
    for name in SPECIALTIES:
        own = {d: shares[d] for d in sorted(given) if given[d] == name}
        specialties[name] = {d: round(share / sum(own.values()), 6) for d, share in own.items()}
    reports = gathered.reports | {f"{name} (held out)": report for name, report in held.reports.items()}
    return {
        "format": FORMAT,
        "seed": seed if "synthetic" in gathered.reports else None,
        "mixture": dict(shares),
        "specialties": specialties,
        "held_out": sorted(held.entries),
        "sources": {name: reports[name].to_json() for name in sorted(reports)},
    }


def _split(entries: Sequence[Entry], fixed: Mapping[str, Split]) -> dict[Split, list[Entry]]:
    """Entries by split, each in the order of its documents' hashes."""
    keyed = sorted(((document.key(), document, tasks) for document, tasks in entries), key=lambda row: row[0])
    parts: dict[Split, list[Entry]] = {split: [] for split in SPLITS}
    size: dict[Split, int] = dict.fromkeys(SPLITS, 0)
    fewest = max(1, min(8, len(keyed) // 10))
    for place, (key, document, tasks) in enumerate(keyed):
        split = fixed.get(key)
        if split is None:
            wanted: Split = "train"
            if unit_of(key) < HELD_FRACTION or place < fewest:
                wanted = "test"
            elif unit_of(key) < 2 * HELD_FRACTION or place < 2 * fewest:
                wanted = "selection"
            full = len(parts[wanted]) >= MOST_HELD_DOCUMENTS or size[wanted] >= MOST_HELD_BYTES
            split = "train" if full else wanted
        elif split != "train" and (len(parts[split]) >= MOST_HELD_DOCUMENTS or size[split] >= MOST_HELD_BYTES):
            continue  # the item belongs to a held-out split that is full: it may not be trained on
        parts[split].append((document, tasks))
        size[split] += document.num_bytes
    return parts


def _write(folder: Path, splits: Mapping[str, Mapping[Split, list[Entry]]], facts: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    counts: dict[str, Any] = {}
    for domain, parts in splits.items():
        for split, entries in parts.items():
            (folder / split).mkdir(exist_ok=True)
            _write_rows(folder / split / f"{domain}.jsonl.zst", (document.to_json() for document, _ in entries))
            tasks = [task.to_json() for _, found in entries for task in found]
            if tasks:
                _write_rows(folder / split / f"{domain}.tasks.jsonl.zst", tasks)
            counts.setdefault(domain, {})[split] = {
                "documents": len(entries),
                "bytes": sum(document.num_bytes for document, _ in entries),
                "tasks": len(tasks),
            }
    facts["domains"] = counts
    facts["digest"] = digest_of(facts)
    (folder / "corpus.json").write_text(
        json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    path.write_bytes(zstandard.ZstdCompressor(level=6).compress(text.encode("utf-8", "replace")))


class Corpus:
    """A corpus folder, open for reading."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Use `open`."""
        self.folder, self.facts = folder, facts
        self._documents: dict[tuple[str, str], list[Document]] = {}

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Opens a folder that `ingest` wrote.

        Raises:
            DataError: it is not a corpus folder, or of a newer format.
        """
        path = Path(folder) / "corpus.json"
        if not path.is_file():
            raise DataError(f"{folder} is not a corpus: it has no corpus.json")
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts.get("format") != FORMAT:
            raise DataError(f"{folder} is a corpus of format {facts.get('format')}, this version reads format {FORMAT}")
        return cls(Path(folder), facts)

    @cached_property
    def domains(self) -> list[str]:
        """Domains that are trained on (weight above 0), sorted."""
        return sorted(domain for domain, weight in self.facts["mixture"].items() if weight > 0)

    def world(self, seed: int) -> int:
        """Seed of the world that its people come from; ``seed`` where it tells none."""
        known = self.facts.get("seed")
        return seed if known is None else int(known)

    @property
    def held_out(self) -> list[str]:
        """Held-out sources: they have only a test split."""
        return list(self.facts["held_out"])

    def documents(self, domain: str, split: Split) -> list[Document]:
        """Documents of a domain or held-out source, in the order of their hashes; empty if it has none in this split.

        Raises:
            DataError: there is no such domain.
        """
        if (domain, split) not in self._documents:
            rows = self._rows(domain, split, f"{domain}.jsonl.zst")
            self._documents[domain, split] = [Document.from_json(row, domain) for row in rows]
        return self._documents[domain, split]

    def tasks(self, domain: str, split: Split) -> list[Task]:
        """Tasks of a domain or held-out source; empty if it has none in this split."""
        return [Task.from_json(row, domain) for row in self._rows(domain, split, f"{domain}.tasks.jsonl.zst")]

    def mixture(self) -> dict[str, float]:
        """Weight of each domain, summing to 1."""
        return {domain: self.facts["mixture"][domain] for domain in self.domains}

    def specialties(self) -> dict[str, dict[str, float]]:
        """For each specialty the domains that it stands for, weights summing to 1."""
        return {name: dict(own) for name, own in self.facts["specialties"].items()}

    def training_texts(self, max_bytes: int = 20_000_000) -> Iterator[str]:
        """Texts of the training split in the proportions of the mixture, to train a tokenizer on."""
        for domain, share in self.mixture().items():
            left = share * max_bytes
            for document in self.documents(domain, "train"):
                if left <= 0:
                    break
                yield document.text
                left -= document.num_bytes

    def _rows(self, domain: str, split: Split, name: str) -> list[dict[str, Any]]:
        if domain not in self.facts["domains"]:
            raise DataError(f"the corpus has no domain {domain!r}; it has {', '.join(sorted(self.facts['domains']))}")
        path = self.folder / split / name
        if not path.is_file():
            return []
        try:
            with zstandard.ZstdDecompressor().stream_reader(path.read_bytes()) as stream:
                return [json.loads(line) for line in stream.read().splitlines()]
        except (zstandard.ZstdError, ValueError) as error:
            raise ArtifactCorrupt(f"{path} cannot be read: {error}") from error
