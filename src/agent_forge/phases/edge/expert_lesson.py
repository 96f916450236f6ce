"""One expert from the first step to its verdict: warm start, REINFORCE, what of it is kept, and on what grounds.

Everything is chosen on the selection split: whether REINFORCE is kept, how much of the vector is kept, and whether the
expert is any good at all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import split_thought
from agent_forge.evaluation.answer_nats import answer_nats
from agent_forge.evaluation.tasks import exact_match, normalised, prompt_ids
from agent_forge.model.expert_vectors import Basis, side_paths
from agent_forge.model.expert_vectors import normalised as in_range
from agent_forge.model.row_generation import generate_rows
from agent_forge.phases.edge.expert_training import (
    Sample,
    VectorTraining,
    advantages,
    policy_loss,
    rate_at,
    supervised_loss,
)
from agent_forge.phases.edge.skills import Examples, Skill

Keep: TypeAlias = Callable[[Mapping[str, Any], int], None]
Observe: TypeAlias = Callable[[Mapping[str, float], int], None]
_STRENGTHS = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class ExpertSettings:
    """How experts are trained.

    Attributes:
        rank: singular values of each matrix that are adapted.
        steps: of the warm start.
        batch_size: windows in a step.
        sequence_length: tokens in a window.
        learning_rate: peak of the warm start, in units of z.
        policy_steps: of REINFORCE; 0 = none.
        policy_questions: questions of a step.
        policy_samples: answers to each, at least 2.
        policy_learning_rate: of REINFORCE, in units of z.
        divergence_weight: of the leash.
        answer_tokens: of an answer at most; a thought comes on top.
        levels: difficulties of the synthetic skills.
        train_documents: worked answers of a skill to learn from.
        selection_documents: to choose with.
        test_documents: to measure with.
        keep_every: steps between two states to resume from.
    """

    rank: int = 128
    steps: int = 60
    batch_size: int = 6
    sequence_length: int = 128
    learning_rate: float = 0.1
    policy_steps: int = 4
    policy_questions: int = 12
    policy_samples: int = 4
    policy_learning_rate: float = 0.004
    divergence_weight: float = 0.05
    answer_tokens: int = 24
    levels: tuple[int, ...] = (1, 2, 3)
    train_documents: int = 400
    selection_documents: int = 48
    test_documents: int = 64
    keep_every: int = 50


@dataclass(frozen=True)
class Standing:
    """What a model can do on some examples.

    Attributes:
        nats: per token of the worked answers.
        accuracy: of the questions, greedy; None where there are none.
    """

    nats: float
    accuracy: float | None

    def to_json(self) -> dict[str, float | None]:
        """As a JSON object."""
        return {"nats": self.nats, "accuracy": self.accuracy}


@dataclass(frozen=True)
class Lesson:
    """The outcome of one skill.

    Attributes:
        vectors: z by the name of the weight, as they are stored.
        base: the model as it is, on the selection split.
        warm: after the warm start.
        final: what is kept; as `warm` where REINFORCE brought nothing.
        reinforced: after REINFORCE, kept or not; None where it did not run.
        strength: share of the way from 1 to z that is kept.
        skipped_steps: with a loss or gradient that was not finite.
    """

    vectors: Mapping[str, Tensor]
    base: Standing
    warm: Standing
    final: Standing
    reinforced: Standing | None
    strength: float
    skipped_steps: int

    @property
    def gain(self) -> float:
        """Nats per token that the expert saves on the selection split."""
        return self.base.nats - self.final.nats

    def to_json(self) -> dict[str, Any]:
        """Figures, without the vectors."""
        return {
            "base": self.base.to_json(), "warm_start": self.warm.to_json(), "final": self.final.to_json(),
            "reinforce": None if self.reinforced is None else self.reinforced.to_json(),
            "strength": self.strength, "skipped_steps": self.skipped_steps,
        }  # fmt: skip


class Teacher:
    """Gives lessons on one model.

    Args:
        model: the base, in evaluation mode; never changed.
        tokenizer: its tokenizer.
        basis: of the model.
        settings: of the training.
        seed: of the order of batches and of samples.
        observe: curves, by step over all lessons.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        basis: Basis,
        settings: ExpertSettings,
        *,
        seed: int,
        observe: Observe,
    ) -> None:
        self.model, self.tokenizer, self.basis, self.settings = model, tokenizer, basis, settings
        self.seed, self.observe = seed, observe
        self.device = next(model.parameters()).device
        self.end = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]

    def teach(
        self, skill: Skill, *, base: Standing, saved: Mapping[str, Any] | None, keep: Keep, first: int = 0
    ) -> Lesson:
        """Trains the expert of a skill.

        Args:
            skill: with its examples.
            base: what the model can do as it is, on the selection split.
            saved: a state that ``keep`` was given in this lesson, to go on from.
            keep: takes states and the step; may raise to stop.
            first: steps of earlier lessons, for the curves.
        """
        settings = self.settings
        training = VectorTraining(self.model, self.basis, learning_rate=settings.learning_rate)
        # 1. warm start: shown answers
        done = int(saved["step"]) if saved else 0
        skipped = int(saved["skipped"]) if saved else 0
        if saved:
            training.load_state(saved["training"])
        warm_vectors = dict(saved["warm"]) if saved and "warm" in saved else None
        if warm_vectors is None:
            skipped += self._warm_start(training, skill, done, keep, first, skipped)
            warm_vectors = training.copies()
        warm = self._standing_with(warm_vectors, skill.selection)
        # 2. REINFORCE: its own answers
        reinforced = None
        total = settings.steps + (settings.policy_steps if skill.train.tasks else 0)
        if total > settings.steps:
            training = self._policy_training(warm_vectors, saved, done)
            for step in range(max(done, settings.steps), total):
                skipped += self._reinforce(training, warm_vectors, skill, step, first)
                if (step + 1) % settings.keep_every == 0 or step + 1 == total:
                    keep(_state(training, step + 1, skipped, warm_vectors), first + step + 1)
            reinforced = self._standing_with(training.copies(), skill.selection)
        # 3. what is kept
        kept = reinforced is not None and _better(reinforced, warm)
        chosen, final = (training.copies(), reinforced) if kept else (warm_vectors, warm)
        assert final is not None
        strength, vectors, final = self._strength(chosen, final, base, skill.selection)
        return Lesson(vectors, base, warm, final, reinforced, strength, skipped)

    def standing(self, examples: Examples) -> Standing:
        """What the model can do as it is now."""
        nats = answer_nats(self.model, self.tokenizer, examples.documents, max_length=self.settings.sequence_length)
        if not examples.tasks:
            return Standing(nats.mean, None)
        score = exact_match(
            self.model, self.tokenizer, examples.tasks, self.settings.answer_tokens,
            thought_budget=2 * self.settings.answer_tokens,
        )  # fmt: skip
        return Standing(nats.mean, score.accuracy)

    def _standing_with(self, vectors: Mapping[str, Tensor], examples: Examples) -> Standing:
        with side_paths(self.model, self.basis, in_range(vectors)):
            return self.standing(examples)

    def _warm_start(
        self, training: VectorTraining, skill: Skill, done: int, keep: Keep, first: int, skipped: int
    ) -> int:
        """Runs the warm start from step ``done``; how many further steps were skipped."""
        settings, fresh = self.settings, 0
        batches = Batches(
            {skill.name: pack(skill.train.documents, self.tokenizer)}, {skill.name: 1.0},
            sequence_length=settings.sequence_length, batch_size=settings.batch_size, seed=self.seed,
            mask_prompts=True, pad_id=self.tokenizer.pad_token_id or 0,
        )  # fmt: skip
        for step in range(done, settings.steps):
            with training.applied():
                loss = supervised_loss(self.model, batches.batch(step))
                fresh += not training.update(loss, rate_at(step, settings.steps))
            self.observe({"edge/expert_nats": float(loss.detach())}, first + step)
            if (step + 1) % settings.keep_every == 0 and step + 1 < settings.steps:
                keep(_state(training, step + 1, skipped + fresh, None), first + step + 1)
        return fresh

    def _policy_training(
        self, warm: Mapping[str, Tensor], saved: Mapping[str, Any] | None, done: int
    ) -> VectorTraining:
        training = VectorTraining(self.model, self.basis, learning_rate=self.settings.policy_learning_rate)
        if saved and done >= self.settings.steps:
            training.load_state(saved["training"])
            return training
        with torch.no_grad():
            training.flat.copy_(torch.cat([warm[name].flatten() for name in self.basis.factors]).to(training.device))
        return training

    def _reinforce(
        self, training: VectorTraining, warm: Mapping[str, Tensor], skill: Skill, step: int, first: int
    ) -> bool:
        """One step on own answers; True where it was skipped because something was not finite."""
        settings = self.settings
        samples, right = self._sample(training, skill, step)
        figures = {"edge/expert_reward": right}
        fine = True
        if samples:
            loss, divergence = policy_loss(training, warm, samples, divergence_weight=settings.divergence_weight)
            fine = training.update(loss, 1.0)
            figures["edge/expert_divergence"] = divergence
        self.observe(figures, first + step)
        return not fine

    def _sample(self, training: VectorTraining, skill: Skill, step: int) -> tuple[list[Sample], float]:
        """Own answers to questions of the training split, those with an advantage; and the share of right ones."""
        settings = self.settings
        start = (step - settings.steps) * settings.policy_questions
        tasks = [skill.train.tasks[(start + n) % len(skill.train.tasks)] for n in range(settings.policy_questions)]
        prompts = prompt_ids(self.tokenizer, [task.prompt for task in tasks])
        repeated = [ids for ids in prompts for _ in range(settings.policy_samples)]
        room = 2 * settings.answer_tokens
        first = self.seed * 7919 + step
        with torch.no_grad(), training.applied():
            said = generate_rows(
                self.model, self.tokenizer, repeated, room, thought_budget=settings.answer_tokens, temperature=1.0,
                seeds=range(first, first + len(repeated)),
            )  # fmt: skip
        owners = [task for task in tasks for _ in range(settings.policy_samples)]
        right = torch.tensor([self._right(ids, task.answer) for ids, task in zip(said, owners, strict=True)]).float()
        gains = advantages(right.view(len(tasks), settings.policy_samples)).flatten().tolist()
        ended = [ids if len(ids) >= room else [*ids, *self.end] for ids in said]
        samples = [
            Sample(question, words, gain)
            for question, words, gain in zip(repeated, ended, gains, strict=True)
            if gain and words
        ]
        return samples, float(right.mean())

    def _right(self, ids: list[int], answer: str) -> bool:
        words = split_thought(self.tokenizer, ids)[1]
        return normalised(str(self.tokenizer.decode(words, skip_special_tokens=True))) == normalised(answer)

    def _strength(
        self, vectors: Mapping[str, Tensor], found: Standing, base: Standing, examples: Examples
    ) -> tuple[float, dict[str, Tensor], Standing]:
        """A vector that makes its own skill worse is tried at a half and a quarter of its way from 1."""
        for strength in _STRENGTHS:
            kept = in_range({name: 1 + strength * (z - 1) for name, z in vectors.items()})
            if strength < 1:
                with side_paths(self.model, self.basis, kept):
                    found = self.standing(examples)
            if found.nats < base.nats:
                break
        return strength, kept, found


def _better(second: Standing, first: Standing) -> bool:
    """More right answers; as many, for fewer nats."""
    if second.accuracy is None or first.accuracy is None:
        return second.nats < first.nats
    return (second.accuracy, -second.nats) > (first.accuracy, -first.nats)


def _state(training: VectorTraining, step: int, skipped: int, warm: Mapping[str, Tensor] | None) -> dict[str, Any]:
    state: dict[str, Any] = {"training": training.state(), "step": step, "skipped": skipped}
    if warm is not None:
        state["warm"] = {name: z.clone() for name, z in warm.items()}
    return state
