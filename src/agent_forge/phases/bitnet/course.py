"""The course of phase 4's training: stages, undoing, recovery, and states to resume from.

A state holds latent weights, optimizer, levels and position; the batch of a step is a pure function of the step, so
a run that was killed goes on from its newest state and ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from agent_forge.contract import Context
from agent_forge.errors import Interrupted, PhaseFailed
from agent_forge.model.ternary import ternary_linears
from agent_forge.optim import schedules
from agent_forge.optim.ternary_training import stall
from agent_forge.phases.bitnet.config import BitnetConfig
from agent_forge.phases.bitnet.gradual import RUNG_NAMES, Attempt, Progress, quantize_gradually
from agent_forge.phases.bitnet.recovery import Recovery, warm_up
from agent_forge.phases.bitnet.ternarization import set_levels

LOG_EVERY = 10
# The ratio of a model whose logits are not finite.
_BROKEN = 1e9


class Course:
    """Trains a student through its stages and its recovery.

    Args:
        config: of the phase.
        context: of the phase run.
        recovery: student, teacher and optimizer.
        stages: layers of each stage, robust ones first.
        batch: the batch of a step.
        validate: perplexity of the student over the teacher's, on the selection split.
    """

    def __init__(
        self,
        config: BitnetConfig,
        context: Context,
        recovery: Recovery,
        stages: Sequence[Sequence[str]],
        *,
        batch: Callable[[int], Mapping[str, Tensor]],
        validate: Callable[[], float],
    ) -> None:
        self.config, self.context, self.recovery, self.stages = config, context, recovery, stages
        self.batch, self.validate = batch, validate
        self.step = 0
        self.total = len(stages) * config.stage_steps + config.recovery_steps
        self.attempts: list[dict[str, Any]] = []
        self._recovered = 0
        self._levels: dict[str, int] = {}
        self._kept: dict[str, Any] = {}
        self._warned = False

    def run(self) -> dict[str, int]:
        """Goes from where the newest state stands to the end, and returns the levels by layer (0 = fp16)."""
        progress = self._resume()
        self._levels = quantize_gradually(
            self.stages,
            progress,
            attempt=self._attempt,
            undo=self._undo,
            keep=self._keep,
            bound=self.config.stage_bound,
            max_attempts=self.config.stage_attempts,
            observe=self._observe,
        )
        set_levels(self.recovery.student, self._levels)  # type: ignore[arg-type]
        done = Progress(len(self.stages), 0, self._levels)
        while self._recovered < self.config.recovery_steps:
            progress_of_decay = self._recovered / self.config.recovery_steps
            self._train({}, schedules.multiplier("cosine", progress_of_decay, warmup_fraction=0.0, floor=0.02))
            self._recovered += 1
            if self._recovered % self.config.checkpoint_every == 0:
                self._keep(done)
        return self._levels

    def _attempt(self, stage: int, levels: Mapping[str, int]) -> float:
        """One try of a stage: λ of its layers rises while everything trains; then validation."""
        ramp = round(self.config.stage_warmup_fraction * self.config.stage_steps)
        everything = {**self._levels_before(stage), **levels}
        set_levels(self.recovery.student, everything)  # type: ignore[arg-type]
        off = {name: 0.0 for name in ternary_linears(self.recovery.student) if not everything.get(name, 0)}
        for step in range(self.config.stage_steps):
            blend = warm_up(step, ramp)
            rising = {name: blend for name, level in levels.items() if level}
            # The first stage starts from an optimizer that has seen nothing.
            rate = warm_up(self.step, max(1, self.config.stage_steps // 5))
            self._train({**off, **rising}, rate)
        try:
            return min(self.validate(), _BROKEN)
        except FloatingPointError:
            return _BROKEN

    def _train(self, blends: Mapping[str, float], rate: float) -> None:
        if self.context.should_stop():
            if not self._kept:
                self._keep(Progress())
            raise Interrupted(f"stopped at step {self.step} of phase bitnet; the newest state is saved")
        off = {name: 0.0 for name, level in self._levels.items() if not level}
        watched = self.step % LOG_EVERY == 0
        try:
            parts = self.recovery.step(self.batch(self.step), rate=rate, blends={**off, **blends}, watch=watched)
        except ValueError as error:
            raise PhaseFailed("bitnet", self.step, f"{error}; lower bitnet.learning_rate") from error
        if not math.isfinite(parts["bitnet/loss"]):
            raise PhaseFailed("bitnet", self.step, f"the loss is {parts['bitnet/loss']}; lower bitnet.learning_rate")
        if watched:
            self.context.log(
                {**parts, "bitnet/rate": rate, "bitnet/blend": min(blends.values(), default=1.0)}, self.step
            )
            self._watch_gradients(parts["bitnet/gradient_share"])
        self.step += 1
        self.context.progress(min(self.step, self.total), self.total, "recovering accuracy")

    def _watch_gradients(self, share: float) -> None:
        if not self._warned and (message := stall(share)):
            self._warned = True
            self.context.warn("RISK-004", message, gradient_share=share)

    def _observe(self, attempt: Attempt) -> None:
        row = {"stage": attempt.stage, "attempt": attempt.number, "ratio": attempt.ratio, "kept": attempt.kept}
        self.attempts.append({**row, "levels": {name: RUNG_NAMES[level] for name, level in attempt.levels.items()}})
        self.context.log({"bitnet/stage": attempt.stage, "bitnet/validation_ratio": attempt.ratio}, self.step)
        if not attempt.kept:
            message = (
                f"stage {attempt.stage} raised perplexity {attempt.ratio:.2f} times, the bound is "
                f"{self.config.stage_bound}; it is undone and its most sensitive layers get more bits"
            )
            self.context.warn("PR4", message, ratio=attempt.ratio, bound=self.config.stage_bound)

    def _levels_before(self, stage: int) -> dict[str, int]:
        earlier = {name for names in self.stages[:stage] for name in names}
        return {name: level for name, level in self._levels.items() if name in earlier}

    def _keep(self, progress: Progress) -> None:
        self._levels = dict(progress.levels or {})
        self._kept = self.recovery.training.state()
        position = {
            "stage": progress.stage,
            "number": progress.number,
            "levels": self._levels,
            "recovered": self._recovered,
            "attempts": self.attempts,
        }
        self.context.checkpoint({**self._kept, "position": position}, self.step)

    def _undo(self) -> None:
        if not self._kept:
            raise PhaseFailed("bitnet", self.step, "there is no state to go back to")
        self.recovery.training.load_state(self._kept)

    def _resume(self) -> Progress:
        found = self.context.restore()
        if found is None:
            self._keep(Progress())
            return Progress()
        state, self.step = found
        position = state["position"]
        self._kept = {"weights": state["weights"], "optimizer": state["optimizer"]}
        self._undo()
        self._recovered, self.attempts = int(position["recovered"]), list(position["attempts"])
        self._levels = {name: int(level) for name, level in position["levels"].items()}
        return Progress(int(position["stage"]), int(position["number"]), dict(self._levels))
