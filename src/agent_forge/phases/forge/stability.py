"""Is training still sound? What is looked at after every step, and what follows from it (premortem CF2).

A step is alarming when its loss or gradient norm is not finite, when the losses of a window vary by more than 0.5
around their trend or have risen by more than a bound, or when a gradient norm is many times its median. After an
assessment, a collapse of accuracy is alarming too. What follows is the same for all: the newest stable state comes
back, chaos is halved, and the data that led there are passed over; from the second return of a stage on the rate is
halved too (one bad batch says nothing about the rate). After three returns within a stage
training stops with its diagnosis: a fourth would hide what is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agent_forge.health.detectors import loss_variance

MAX_RESTORES = 3


@dataclass(frozen=True)
class Alarm:
    """What was seen.

    Attributes:
        cause: one of "not finite", "loss variance", "loss rise", "gradient spike", "accuracy collapse",
            "broken weights".
        measured: its figure.
        bound: what it went beyond.
    """

    cause: str
    measured: float
    bound: float

    def sentence(self) -> str:
        """For people."""
        return f"{self.cause}: {self.measured:.4g} (bound {self.bound:g})"


@dataclass
class Stability:
    """Watches losses and gradient norms.

    Args:
        window: steps.
        variance: largest variance of the loss around its trend, nats².
        rise: largest rise of the loss from the window's first quarter to its last, nats.
        spike: largest gradient norm over the window's median.
        collapse: largest fall of accuracy at what was passed, 0–1.

    Attributes:
        restores: returns within the running stage.
        history: every alarm so far, as sentences.
    """

    window: int = 20
    variance: float = 0.5
    rise: float = 1.0
    spike: float = 50.0
    collapse: float = 0.4
    restores: int = 0
    history: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    def look(self, loss: float, norm: float) -> Alarm | None:
        """Takes one step's figures."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return Alarm("not finite", loss if not math.isfinite(loss) else norm, 0.0)
        self.losses.append(loss)
        self.norms.append(norm)
        del self.losses[: -self.window], self.norms[: -self.window]
        if len(self.losses) < self.window:
            return None
        losses = np.asarray(self.losses)
        if (found := loss_variance(losses)) > self.variance:
            return Alarm("loss variance", found, self.variance)
        if (found := _rise(losses)) > self.rise:
            return Alarm("loss rise", found, self.rise)
        median = float(np.median(self.norms))
        if median > 0 and norm / median > self.spike:
            return Alarm("gradient spike", norm / median, self.spike)
        return None

    def look_at_accuracy(self, best: Mapping[int, float], now: Mapping[int, float]) -> Alarm | None:
        """Compares accuracies by level with the best ones so far."""
        falls = [best[level] - now[level] for level in best.keys() & now.keys()]
        worst = float(np.mean(falls)) if falls else 0.0
        return Alarm("accuracy collapse", worst, self.collapse) if worst > self.collapse else None

    @property
    def calm(self) -> bool:
        """Whether the window holds nothing that is on its way to an alarm: only then is a state stable."""
        losses = np.asarray(self.losses)
        return loss_variance(losses) <= self.variance / 2 and _rise(losses) <= self.rise / 2

    def record(self, alarm: Alarm) -> bool:
        """Counts a return; False when there were too many."""
        self.restores += 1
        self.history.append(alarm.sentence())
        self.losses.clear()
        self.norms.clear()
        return self.restores <= MAX_RESTORES

    def begin_stage(self) -> None:
        """Another stage, other data: its losses are not compared with the last one's."""
        self.restores = 0
        self.losses.clear()
        self.norms.clear()

    def state(self) -> dict[str, Any]:
        """What a resumed run has to know."""
        return {
            "restores": self.restores,
            "history": list(self.history),
            "losses": list(self.losses),
            "norms": list(self.norms),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave."""
        self.restores, self.history = int(state["restores"]), list(state["history"])
        self.losses, self.norms = list(state["losses"]), list(state["norms"])


def _rise(losses: np.ndarray) -> float:
    """Mean of the last quarter minus mean of the first: batches differ, so single steps prove nothing."""
    quarter = len(losses) // 4
    return float(losses[-quarter:].mean() - losses[:quarter].mean()) if quarter else 0.0
