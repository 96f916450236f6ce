"""When the policy gradient runs away, and what is done about it (premortem, risk PR3-D).

REINFORCE has no floor: a policy can leave the text (KL), stop finding reward, or always think the same. Each is
watched as a mean over a window. A sign leads back to the last good state with half the policy weight; after three
times the phase goes on without the policy and its gate fails with the diagnosis.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass
class DivergenceWatch:
    """The bounds, and the last figures.

    Attributes:
        max_divergence: KL to the model before, nats per token.
        min_gain: mean gain of a predicted token, nats; below it thoughts hurt steadily.
        min_entropy: nats of a thought token; below it all thoughts are one.
        window: steps that are averaged.
        max_restores: times that it is rolled back.
        restores: times that it was.
        diagnosis: one sentence for each time.
    """

    max_divergence: float
    min_gain: float
    min_entropy: float
    window: int
    max_restores: int = 3
    restores: int = 0
    diagnosis: list[str] = field(default_factory=list)
    _seen: deque[tuple[float, float, float]] = field(default_factory=deque)

    def look(self, divergence: float, gain: float, entropy: float) -> str | None:
        """Takes the figures of a step; a sentence if the policy has diverged, else None."""
        if divergence != divergence or gain != gain or entropy != entropy:
            return "a figure of the policy is not a number"
        self._seen.append((divergence, gain, entropy))
        if len(self._seen) < self.window:
            return None
        if len(self._seen) > self.window:
            self._seen.popleft()
        means = [sum(column) / self.window for column in zip(*self._seen, strict=True)]
        if means[0] > self.max_divergence:
            return f"KL to the model before is {means[0]:.3g} nats, the bound is {self.max_divergence:g}"
        if means[1] < self.min_gain:
            return f"thoughts cost {-means[1]:.3g} nats a token, the bound is {-self.min_gain:g}"
        if means[2] < self.min_entropy:
            return f"thoughts have an entropy of {means[2]:.3g} nats, the bound is {self.min_entropy:g}"
        return None

    def rolled_back(self, why: str) -> bool:
        """Notes a roll-back and forgets the window; True while there may be another."""
        self.restores += 1
        self.diagnosis.append(why)
        self._seen.clear()
        return self.restores < self.max_restores

    def state(self) -> dict[str, object]:
        """For a state to resume from."""
        return {"restores": self.restores, "diagnosis": list(self.diagnosis), "seen": [list(row) for row in self._seen]}

    def load_state(self, state: dict[str, object]) -> None:
        """Takes over what `state` gave."""
        self.restores = int(state["restores"])  # type: ignore[call-overload]
        self.diagnosis = list(state["diagnosis"])  # type: ignore[call-overload]
        self._seen = deque(tuple(row) for row in state["seen"])  # type: ignore[attr-defined]
