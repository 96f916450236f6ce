"""Segments of training, one after another, each of which can be resumed in its middle.

A segment begins by asking the teacher, which is the model as it stands, for everything that it will need; then it
trains, and ends with half-baking. What the teacher said follows from its weights and a named generator, so that a state
holds only the weights at the beginning of the segment, those of now and the optimizer, and a run that was killed
ends with the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from agent_forge.contract import Context
from agent_forge.errors import Interrupted, PhaseFailed
from agent_forge.model.ternary import rounded
from agent_forge.optim import schedules
from agent_forge.phases.baking.student import Student

LOG_EVERY = 10
Loss = Callable[[int], tuple[Tensor, dict[str, float]]]


class Course:
    """Runs segments and remembers what was measured between them.

    Args:
        context: of the phase run.
        student: what is trained.
        total: steps of all segments, for the progress shown.
        checkpoint_every: steps between two states.

    Attributes:
        finished: names of the segments that are over.
        records: JSON values by name, see `remember`.
        step: of all segments together.
    """

    def __init__(self, context: Context, student: Student, *, total: int, checkpoint_every: int) -> None:
        self.context, self.student = context, student
        self.total, self.checkpoint_every = total, checkpoint_every
        self.finished: list[str] = []
        self.records: dict[str, Any] = {}
        self.kept: dict[str, dict[str, Tensor]] = {}
        self.step = 0
        self._running: dict[str, Any] = {}
        found = context.restore()
        if found is not None:
            state, self.step = found
            self.finished, self.records = list(state["finished"]), dict(state["records"])
            self.kept = {name: dict(weights) for name, weights in state["kept"].items()}
            self._running = dict(state["running"])
            student.load(state["before"])

    def segment(
        self,
        name: str,
        steps: int,
        prepare: Callable[[], Loss],
        *,
        learning_rate: float,
        strength: float = 1.0,
        whole: bool = False,
    ) -> None:
        """Trains, unless this segment is over already.

        Args:
            name: unique.
            steps: of training.
            prepare: asks the teacher, and gives the loss of each step with figures to log.
            learning_rate: peak.
            strength: share of the change that is kept.
            whole: see `Student.begin`.

        Raises:
            Interrupted: a stop was asked for; the newest state is saved.
            PhaseFailed: the loss is not finite.
        """
        if name in self.finished:
            return
        student, before, start = self.student, self.student.weights(), 0
        if steps:
            with rounded(student.model):
                loss_of = prepare()
            student.begin(learning_rate, self.context.generator(f"baking/{name}/adapter"), whole=whole)
            training = student.training
            assert training is not None
            if self._running.get("name") == name:
                training.load_state(self._running["state"])
                start = int(self._running["step"])
            for step in range(start, steps):
                if self.context.should_stop():
                    self._save(before, name, step)
                    raise Interrupted(f"stopped in {name}, step {step}; the newest state is saved")
                self._train(name, loss_of, step, steps)
                if (step + 1) % self.checkpoint_every == 0 and step + 1 < steps:
                    self._save(before, name, step + 1)
            student.end(before, strength)
        self._running = {}
        self.finished.append(name)
        self._save(student.weights())

    def remember(self, name: str, measure: Callable[[], Any]) -> Any:
        """What ``measure`` gave the first time, as JSON; it is not asked again after a resume."""
        if name not in self.records:
            with rounded(self.student.model):
                self.records[name] = measure()
            self._save(self.student.weights())
        return self.records[name]

    def keep(self, name: str) -> None:
        """Keeps the weights of now under a name."""
        if name not in self.kept:
            self.kept[name] = self.student.weights()
            self._save(self.student.weights())

    def drop(self, name: str) -> None:
        """Forgets kept weights."""
        self.kept.pop(name, None)

    def _train(self, name: str, loss_of: Loss, step: int, steps: int) -> None:
        training = self.student.training
        assert training is not None
        self.student.model.train()
        training.blend()
        loss, figures = loss_of(step)
        rate = schedules.multiplier("cosine", step / steps, warmup_fraction=0.05, floor=0.02)
        rate = max(rate, 0.02)
        told = training.update(loss, rate=rate)
        self.student.model.eval()
        value = float(loss.detach())
        if not math.isfinite(value) or not math.isfinite(told["gradient_norm"]):
            raise PhaseFailed("baking", self.step, f"the loss of {name} is {value}; lower baking's learning rates")
        if step % LOG_EVERY == 0 or step == steps - 1:
            self.context.log({"baking/loss": value, **figures, "baking/rate": rate}, self.step)
        self.step += 1
        self.context.progress(min(self.step, self.total), self.total, name)

    def _save(self, before: dict[str, Tensor], name: str = "", step: int = 0) -> None:
        running: dict[str, Any] = {}
        if name:
            assert self.student.training is not None
            running = {"name": name, "step": step, "state": self.student.training.state()}
        state = {"finished": self.finished, "records": self.records, "kept": self.kept, "before": before}
        self.context.checkpoint({**state, "running": running}, self.step)
