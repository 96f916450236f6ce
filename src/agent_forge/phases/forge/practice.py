"""What a stage trains on: fresh questions by level, the model's own right answers, thoughts, and ordinary text.

Everything is a function of the plan of the stage, so that a run that was killed makes the same batches again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document
from agent_forge.data.packing import Batches, TokenShard, enough, pack, whole
from agent_forge.data.thought_habit import with_habit
from agent_forge.data.tokenizer import encode_documents, has_thoughts
from agent_forge.errors import ConfigError
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.questions import Question, Questions
from agent_forge.phases.forge.tool_dialogues import thinking

# Bytes of text behind a token, at most: what is packed must last for the whole phase.
_TEXT = "text-"


@dataclass(frozen=True)
class Plan:
    """What one stage practises.

    Attributes:
        stage: its number, from 0.
        edge: the level practised most.
        shares: by kind and level, summing to 1; kind "" = as they come.
        starts: for each level where its fresh questions begin.
        own: the model's own right answers.
        success: what the assessment found, by level.
    """

    stage: int
    edge: int
    shares: Mapping[str, Mapping[int, float]]
    starts: Mapping[int, int]
    own: Sequence[Document] = ()
    success: Mapping[int, float] = field(default_factory=dict)

    def share_of(self, level: int) -> float:
        """Of a level, all kinds together."""
        return sum(own.get(level, 0.0) for own in self.shares.values())

    @property
    def levels(self) -> list[int]:
        """Levels that are practised."""
        return sorted({n for own in self.shares.values() for n, share in own.items() if share > 0})

    def to_json(self) -> str:
        """As text, for a state."""
        return json.dumps(
            {
                "stage": self.stage,
                "edge": self.edge,
                "shares": {kind: {str(n): x for n, x in own.items()} for kind, own in self.shares.items()},
                "starts": {str(n): start for n, start in self.starts.items()},
                "own": [document.to_json() for document in self.own],
                "success": {str(n): rate for n, rate in self.success.items()},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        value: dict[str, Any] = json.loads(text)
        return cls(
            value["stage"],
            value["edge"],
            {kind: {int(n): float(x) for n, x in own.items()} for kind, own in value["shares"].items()},
            {int(n): int(start) for n, start in value["starts"].items()},
            [Document.from_json(row, "own") for row in value["own"]],
            {int(n): float(rate) for n, rate in value["success"].items()},
        )


class Practice:
    """Makes batches.

    Args:
        config: of the phase.
        questions: where fresh ones come from.
        corpus: where ordinary text comes from.
        tokenizer: of the model.
        seed: of the order.
        thoughts: worked thoughts, if the model thinks: they get a tenth of every stage.
    """

    def __init__(
        self,
        config: ForgePhaseConfig,
        questions: Questions,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        seed: int,
        thoughts: TokenShard | None = None,
    ) -> None:
        self.config, self.questions, self.tokenizer, self.seed = config, questions, tokenizer, seed
        self.thoughts = thoughts
        self.mixture = corpus.mixture()
        tokens = config.stages * config.stage_steps * config.batch_size * config.sequence_length
        wanted = max(0.05, config.text_fraction) * tokens
        self.text: dict[str, TokenShard] = {
            domain: whole(pack(enough(corpus.documents(domain, "train"), wanted * share), tokenizer))
            for domain, share in self.mixture.items()
        }

    def fresh(self, plan: Plan) -> tuple[dict[int, list[Question]], dict[int, int]]:
        """The questions of a plan, and where the next ones of each level begin."""
        found: dict[int, list[Question]] = {}
        after = dict(plan.starts)
        for level in plan.levels:
            wanted = {kind: own.get(level, 0.0) * self.config.questions for kind, own in plan.shares.items()}
            quotas = {kind: max(1, round(count)) for kind, count in wanted.items() if count > 0}
            kinds = None if "" in quotas else quotas
            asked, after[level] = self.questions.draw(level, "train", sum(quotas.values()), plan.starts[level], kinds)
            found[level] = self.fitting(asked)
        return {level: asked for level, asked in found.items() if asked}, after

    def worked(self, asked: Sequence[Question]) -> list[Document]:
        """The worked answers; their steps are thoughts where the model can think."""
        documents = [question.worked for question in asked]
        return [thinking(each) for each in documents] if has_thoughts(self.tokenizer) else documents

    def fitting(self, asked: Sequence[Question]) -> list[Question]:
        """Those that fit into a window with their answer: a question cut off from its answer teaches nothing."""
        lengths = (len(each.ids) for each in encode_documents(self.tokenizer, self.worked(asked)))
        return [q for q, length in zip(asked, lengths, strict=True) if length <= self.config.sequence_length]

    def batches(self, plan: Plan) -> tuple[Batches, dict[int, int]]:
        """Batches of a stage, and where the next questions of each level begin."""
        config = self.config
        asked, after = self.fresh(plan)
        shards = {f"level-{n}": pack(self.worked(found), self.tokenizer) for n, found in asked.items()}
        own = config.own_fraction if plan.own else 0.0
        if plan.own:
            shards["own"] = pack(plan.own, self.tokenizer)
        rest = 1 - config.text_fraction - own
        total = sum(plan.share_of(n) for n in asked)
        if not total:
            raise ConfigError(
                f"no question of levels {plan.levels} fits into forge.sequence_length "
                f"{config.sequence_length}; make it longer or practise other domains"
            )
        weights = {f"level-{n}": rest * plan.share_of(n) / total for n in asked}
        weights |= {"own": own} if plan.own else {}
        return self._laid(shards, weights, config.text_fraction, f"stage-{plan.stage}"), after

    def dream_batches(self, dreams: Sequence[Document], real: Sequence[Document], share: float, stage: int) -> Batches:
        """Batches of a dream: ``share`` of dreams, the rest real, half of that ordinary text."""
        shards = {"dream": pack(dreams, self.tokenizer), "real": pack(real, self.tokenizer)}
        text = min(self.config.text_fraction, (1 - share) / 2)
        return self._laid(shards, {"dream": share, "real": 1 - share - text}, text, f"dream-{stage}")

    def _laid(self, shards: dict[str, TokenShard], weights: dict[str, float], text: float, name: str) -> Batches:
        if text > 0:
            shards |= {f"{_TEXT}{domain}": shard for domain, shard in self.text.items()}
            weights |= {f"{_TEXT}{domain}": text * share for domain, share in self.mixture.items()}
        shards, weights = with_habit(shards, weights, self.thoughts)
        return Batches(
            shards,
            weights,
            sequence_length=self.config.sequence_length,
            batch_size=self.config.batch_size,
            seed=self.seed + sum(name.encode()) * 7919,
            mask_prompts=True,
            pad_id=self.tokenizer.pad_token_id or 0,
        )


def ordinary_rows(batches: Batches, number: int) -> Tensor:
    """Which rows of batch ``number`` are ordinary text, bool [B]."""
    first = number * batches.batch_size
    rows = range(first, first + batches.batch_size)
    return torch.tensor([batches.window_of(row)[0].startswith(_TEXT) for row in rows])
