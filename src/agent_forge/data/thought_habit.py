"""The habit of thinking, kept up: worked thoughts among what later phases train on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from agent_forge.data.documents import Split, Task
from agent_forge.data.packing import TokenShard, pack
from agent_forge.data.practice import DOMAIN, worked_thoughts
from agent_forge.data.tokenizer import has_thoughts

# Repetitions in a row after which no other question is expected.
_MISSES = 1000


def habit(
    tokenizer: PreTrainedTokenizerBase, practice: Mapping[str, Any] | None, *, items: int = 4000
) -> TokenShard | None:
    """Worked thoughts for a later phase to train on; None where the model does not think.

    Args:
        tokenizer: of the model.
        practice: the fact ``practice`` of a checkpoint that phase 3 taught (seed, levels, strategies, and the share of
            questions that are answered at once), else None.
        items: questions.
    """
    if practice is None or not has_thoughts(tokenizer):
        return None
    worked = worked_thoughts(int(practice["seed"]), "train", practice["levels"], practice["strategies"])
    at_once = float(practice.get("direct_fraction", 0.0)) * 2**32
    documents = (
        # a share of the questions, told by the end of their key: its beginning says which split they belong to
        item.document.without_thoughts() if int(item.key[-8:], 16) < at_once else item.document
        for item in islice(worked, items)
    )
    return pack(documents, tokenizer)


def habit_tasks(practice: Mapping[str, Any], count: int, split: Split = "test") -> list[Task]:
    """Different questions of a split of the practice, the ways to think in turn.

    Args:
        practice: the fact ``practice`` of a checkpoint (seed, levels, strategies).
        count: how many; fewer come where the practice has no more (few short questions differ at level 1).
        split: that they belong to.
    """
    found: dict[str, Task] = {}
    repeated = 0
    for item in worked_thoughts(int(practice["seed"]), split, practice["levels"], practice["strategies"]):
        repeated = repeated + 1 if item.key in found else 0
        found.setdefault(item.key, item.tasks[0])
        if len(found) >= count or repeated >= _MISSES:
            break
    return list(found.values())


def with_habit(
    shards: Mapping[str, TokenShard],
    mixture: Mapping[str, float],
    thoughts: TokenShard | None,
    *,
    fraction: float = 0.1,
) -> tuple[dict[str, TokenShard], dict[str, float]]:
    """What a later phase trains on, with worked thoughts mixed in, so that a model that thinks goes on thinking.

    Args:
        shards: by domain.
        mixture: weight by domain.
        thoughts: of `habit`.
        fraction: share of the mixture that the thoughts get, below 1.

    Returns:
        Shards and mixture with the domain `DOMAIN`; the same without it where there are no thoughts.
    """
    if thoughts is None or fraction == 0:
        return dict(shards), dict(mixture)
    weight = sum(mixture.values()) * fraction / (1 - fraction)
    return {**shards, DOMAIN: thoughts}, {**mixture, DOMAIN: weight}
