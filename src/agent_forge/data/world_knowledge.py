"""The index of the synthetic world's people that an agent's tools look things up in.

Written as ``knowledge.json``: ``{"format": 1, "records": {name: {what: value}}}``, in the order of the people's
numbers. It holds everybody of a level and everybody whom three links (friend, teacher) lead to: whatever the
questions of that level look up is found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent_forge.data.corpora import Corpus
from agent_forge.data.synthetic_world.facts import OWN, people_at, person, value
from agent_forge.errors import DataError

FORMAT = 1
_LINKS = 3


def world_records(seed: int, level: int) -> dict[str, dict[str, str]]:
    """What there is to know about the people of a level, by name.

    Args:
        seed: of the world.
        level: 1–10.
    """
    people = set(range(people_at(level)))
    front = people
    for _ in range(_LINKS):
        front = {number for who in front for number in (person(seed, who).friend, person(seed, who).teacher)} - people
        people |= front
    records: dict[str, dict[str, str]] = {}
    for who in sorted(people):
        # two people of one name: the first is the one who is meant, as in the questions of lower levels
        records.setdefault(person(seed, who).name, {what: value(seed, who, what) for what in OWN})
    return records


def corpus_records(corpus: Corpus) -> dict[str, dict[str, str]]:
    """The records for the levels that a corpus has.

    Raises:
        DataError: the corpus holds nothing of the synthetic world.
    """
    seed: Any = corpus.facts["seed"]
    if seed is None:
        raise DataError("the corpus holds nothing of the synthetic world, so there is nobody to look up")
    levels = {document.level for domain in corpus.domains for document in corpus.documents(domain, "train")}
    return world_records(int(seed), max((level for level in levels if level is not None), default=1))


def write_knowledge(folder: Path, records: dict[str, dict[str, str]]) -> Path:
    """Writes ``knowledge.json`` into a folder and returns its path."""
    path = Path(folder) / "knowledge.json"
    text = json.dumps({"format": FORMAT, "records": records}, ensure_ascii=False, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8")
    return path
