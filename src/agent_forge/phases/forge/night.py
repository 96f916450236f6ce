"""One night: what a dream cycle does to a student, and whether it stays."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from agent_forge.model.forward import on_device
from agent_forge.phases.forge.config import ForgePhaseConfig
from agent_forge.phases.forge.dreams import copy_of, dream, share_of_dreams
from agent_forge.phases.forge.examiner import Examiner
from agent_forge.phases.forge.learner import Learner
from agent_forge.phases.forge.practice import Practice
from agent_forge.phases.forge.questions import Question
from agent_forge.phases.forge.tool_dialogues import wants_tools

# Draws behind those of practice, so that no dream moves them.
_DREAMT_OF = 20_000_000


@dataclass(frozen=True)
class NightResult:
    """What a night did.

    Attributes:
        asked: questions dreamt of.
        verified: answers that the checker passed.
        kept: of those, answers within the band of perplexity.
        before: accuracy on earlier levels, mean.
        after: the same afterwards (before it was undone, if it was).
        undone: whether the student is as it was.
        share: of dreams in what was trained on.
    """

    asked: int
    verified: int
    kept: int
    before: float
    after: float
    undone: bool
    share: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))

    def figures(self) -> dict[str, float]:
        """Numbers for a warning."""
        return {"before": self.before, "after": self.after, "kept": float(self.kept)}


class Night:
    """Lets a student dream.

    Args:
        config: of the phase.
        learner: student and optimizer.
        examiner: asks before and after.
        practice: makes batches.
    """

    def __init__(self, config: ForgePhaseConfig, learner: Learner, examiner: Examiner, practice: Practice) -> None:
        self.config, self.learner, self.examiner, self.practice = config, learner, examiner, practice

    @property
    def steps(self) -> int:
        """Training steps of a night."""
        return max(1, round(self.config.dream_fraction * self.config.stage_steps))

    def sleep(self, stage: int, known: Mapping[int, Sequence[Question]], *, rate: float) -> NightResult | None:
        """Dreams of earlier levels, trains, and undoes it where it cost more than it may.

        Args:
            stage: its number.
            known: watched questions of earlier levels; accuracy on them decides.
            rate: factor on the peak learning rates.

        Returns:
            What happened; None where there is nothing to dream of yet.
        """
        config, training = self.config, self.learner.training
        if not known:
            return None
        # 1. The model that goes to sleep answers questions of earlier levels.
        before, state = copy_of(self.learner.student), training.state()
        accuracy = self._accuracy(known)
        asked = self.practice.fitting(self._questions(sorted(known), stage))
        found = dream(
            before, self.practice.tokenizer, asked, band=config.dream_band, max_tokens=config.answer_tokens, seed=stage
        )
        if not found.kept:
            return NightResult(found.asked, found.verified, 0, accuracy, accuracy, False, 0.0)
        # 2. Training on dreams and at least as much real text, held near that model.
        real = self.practice.worked(asked)
        share = share_of_dreams(len(found.kept), len(real))
        batches = self.practice.dream_batches(found.kept, real, share, stage)
        device = next(self.learner.student.parameters()).device
        sound = True
        for step in range(self.steps):
            batch = on_device(device, batches.batch(step))
            sound = sound and self._one_step(batch, before, rate)
        # 3. Was anything forgotten?
        after = self._accuracy(known) if sound else 0.0
        undone = after < accuracy - config.dream_tolerance
        if undone:
            training.load_state(state)
        return NightResult(found.asked, found.verified, len(found.kept), accuracy, after, undone, share)

    def _one_step(self, batch: Mapping[str, Tensor], before: PreTrainedModel, rate: float) -> bool:
        """One step; False where it broke the student."""
        try:
            figures = self.learner.dream_step(
                batch, before, rate=rate, divergence_weight=self.config.dream_divergence_weight
            )
        except ValueError:  # a scale beyond what fp16 can hold
            return False
        return math.isfinite(figures["forge/dream_loss"])

    def _accuracy(self, known: Mapping[int, Sequence[Question]]) -> float:
        return float(np.mean(list(self.examiner.accuracy(known).values())))

    def _questions(self, levels: Sequence[int], stage: int) -> list[Question]:
        each = max(1, self.config.dream_questions // len(levels))
        start = _DREAMT_OF + stage * 100 * each
        asked = [q for level in levels for q in self.practice.questions.draw(level, "train", each, start)[0]]
        # A dialogue with tools cannot be dreamt: nobody runs the tools.
        return [question for question in asked if not wants_tools(question)]
