"""Which domains each specialist learns most from: declared for known names, else measured from the text.

Reasoning goes where digits, operators and code marks are dense; memory integration where documents are long and full
of names; adaptive computation gets the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from agent_forge.data.documents import Document

SPECIALTIES = ("reasoning", "memory_integration", "adaptive_computation")
_DECLARED = {
    "arithmetic": "reasoning",
    "code": "reasoning",
    "facts": "memory_integration",
    "stories": "adaptive_computation",
    "tools": "adaptive_computation",
    "conversation": "adaptive_computation",
}
_FORMAL = re.compile(r"[0-9+*/=<>(){}\[\]_]")
_NAME = re.compile(r"(?<=[a-z,;] )[A-Z][a-z]+")


def formality(document: Document) -> float:
    """Share of the characters that are digits, operators or brackets, 0–1."""
    return len(_FORMAL.findall(document.text)) / max(1, len(document.text))


def breadth(document: Document) -> float:
    """How much there is to remember: log2 of the length times one plus the share of words that are names."""
    words = document.text.count(" ") + 1
    return float(np.log2(1 + len(document.text)) * (1 + 5 * len(_NAME.findall(document.text)) / words))


def assign(samples: Mapping[str, Sequence[Document]]) -> dict[str, str]:
    """The specialty of each domain; every specialty gets at least one if there are three domains or more.

    Args:
        samples: some documents of each domain.
    """
    taken = {domain: _DECLARED[domain] for domain in samples if domain in _DECLARED}
    taken |= {domain: name for domain in samples for name in SPECIALTIES if domain.endswith(f"-{name}")}
    formal = {domain: float(np.mean([formality(d) for d in docs] or [0])) for domain, docs in samples.items()}
    broad = {domain: float(np.mean([breadth(d) for d in docs] or [0])) for domain, docs in samples.items()}
    free = sorted(set(samples) - set(taken))
    for specialty, feature in (("reasoning", formal), ("memory_integration", broad)):
        if specialty not in taken.values() and free:
            best = max(free, key=lambda domain: (feature[domain], domain))
            taken[best] = specialty
            free.remove(best)
    if "adaptive_computation" not in taken.values() and free:
        plainest = min(free, key=lambda domain: (formal[domain], broad[domain], domain))
        taken[plainest] = "adaptive_computation"
        free.remove(plainest)
    typical_formal, typical_broad = float(np.median(list(formal.values()))), float(np.median(list(broad.values())))
    for domain in free:
        if formal[domain] > 1.5 * typical_formal:
            taken[domain] = "reasoning"
        else:
            taken[domain] = "memory_integration" if broad[domain] > typical_broad else "adaptive_computation"
    return taken


def in_three(documents: Sequence[Document]) -> list[str]:
    """A specialty for each document of one domain: the third with the densest digits and marks is reasoning, of the
    others the broader half is memory integration. Ties go by content.
    """
    keys = [document.key() for document in documents]
    by_formality = sorted(range(len(documents)), key=lambda n: (-formality(documents[n]), keys[n]))
    third = len(documents) // 3
    given = ["adaptive_computation"] * len(documents)
    for place in by_formality[:third]:
        given[place] = "reasoning"
    rest = sorted(by_formality[third:], key=lambda n: (-breadth(documents[n]), keys[n]))
    for place in rest[: (len(rest) + 1) // 2]:
        given[place] = "memory_integration"
    return given
