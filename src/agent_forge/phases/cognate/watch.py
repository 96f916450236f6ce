"""The premortem of phase 1 while it trains: what is seen, and what is done about it.

Each rule looks at the figures of a step and answers with an `Alarm` or nothing. Rules keep their small memory in
`Watch.state_dict`, so that a resumed run raises the same alarms.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Any, Literal

Action = Literal["none", "restore", "weaker_grokfast", "more_orthogonalization", "raise_threshold", "lower_threshold",
                 "looser_clip", "attention_entropy"]  # fmt: skip

WINDOW = 100


@dataclass(frozen=True)
class Alarm:
    """An entry of the premortem that was seen.

    Attributes:
        failure: its id.
        message: what was seen and what is done.
        evidence: the figures.
        action: what the training loop should do.
    """

    failure: str
    message: str
    evidence: dict[str, float]
    action: Action = "none"


class Watch:
    """Detectors of the failure tree for one training run.

    Args:
        max_steps: most steps of the recursion; 1 = no recursion.
        has_memory: the model has a memory with a gate.
    """

    def __init__(self, *, max_steps: int, has_memory: bool) -> None:
        self.max_steps, self.has_memory = max_steps, has_memory
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.raised: dict[str, int] = {}
        self.crooked = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {"losses": list(self.losses), "raised": dict(self.raised), "crooked": self.crooked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over a state of `state_dict`."""
        self.losses = deque((float(v) for v in state["losses"]), maxlen=WINDOW)
        self.raised = {key: int(value) for key, value in state["raised"].items()}
        self.crooked = int(state["crooked"])

    def after_backward(self, loss: float, gradient_norm: float) -> Alarm | None:
        """C2: not-a-number, exploding gradients, or a loss far outside of the last 100."""
        figures = {"loss": loss if math.isfinite(loss) else -1.0, "gradient_norm": gradient_norm}
        if not math.isfinite(loss) or not math.isfinite(gradient_norm):
            figures["gradient_norm"] = gradient_norm if math.isfinite(gradient_norm) else -1.0
            return Alarm("C2", "loss or gradient is not a number: back to the last good state", figures, "restore")
        if len(self.losses) >= 50:
            mean = sum(self.losses) / len(self.losses)
            deviation = math.sqrt(sum((value - mean) ** 2 for value in self.losses) / len(self.losses))
            # Both: a step far out of the noise, and large in itself.
            if loss > mean + 8 * deviation and loss > mean + 1.0:
                figures |= {"mean": mean, "deviation": deviation}
                return Alarm("C2", "the loss jumped: back to the last good state", figures, "restore")
        self.losses.append(loss)
        if gradient_norm > 100:
            return self._rarely("C2", "the gradient is large and was clipped", figures)
        return None

    def optimizer(self, figures: dict[str, float], grokfast_lambda: float) -> list[Alarm]:
        """D1 and D2, from what the optimizer measured."""
        alarms = []
        ratio = figures.get("grokfast/ratio", 1.0)
        swing = self._swing()
        if grokfast_lambda > 0 and (ratio > 2.0 or swing > 1.0):
            evidence = {"ratio": ratio, "swing": swing, "lambda": grokfast_lambda}
            alarms.append(Alarm("D1", "Grokfast amplifies too much: λ is lowered", evidence, "weaker_grokfast"))
        error = figures.get("optim/orthogonality_error", 0.0)
        # One bad update may be a matrix whose gradient is still of low rank; a lasting one is the method's.
        self.crooked = self.crooked + 1 if error > 0.6 else 0
        if self.crooked >= 3:
            self.crooked = 0
            evidence = {"orthogonality_error": error}
            alarms.append(
                Alarm("D2", "updates are far from orthogonal: a better method", evidence, "more_orthogonalization")
            )
        return alarms

    def clipped(self, fraction: float, *, loosened: bool) -> Alarm | None:
        """D3: the share of heads that QK-clip had to shrink in one look.

        The specification warns at 100 and acts at 500 a step. Its step has 8 blocks × 8 heads × 16 windows of 512
        tokens = 1,024 heads to clip, so these are a tenth and a half.

        Args:
            fraction: heads above the threshold over heads looked at (0–1).
            loosened: it was answered already; a second time would only be told.
        """
        evidence = {"fraction": fraction}
        if fraction > 0.5 and not loosened:
            message = "QK-clip fires everywhere: τ is raised, queries and keys learn at half the rate"
            return Alarm("D3", message, evidence, "looser_clip")
        return self._rarely("D3", "QK-clip fires often", evidence) if fraction > 0.1 else None

    def attention(self, figures: dict[str, float]) -> list[Alarm]:
        """E1 and E2, from `attention_metrics`."""
        alarms: list[Alarm | None] = []
        if figures["attn/rope_norm"] < 0.05:
            evidence = {"rope_norm": figures["attn/rope_norm"]}
            alarms.append(self._rarely("E1", "keys of one layer have shrunk to a twentieth of another's", evidence))
        if figures["attn/sinks"] > 10:
            evidence = {"sinks": figures["attn/sinks"], "entropy": figures["attn/entropy_fraction"]}
            message = "attention sinks: attention entropy joins the objective"
            alarms.append(Alarm("E2", message, evidence, "attention_entropy"))
        return [alarm for alarm in alarms if alarm is not None]

    def validation(self, figures: dict[str, float], *, warmed_up: bool) -> list[Alarm]:
        """A2 and C1, from a validation."""
        alarms: list[Alarm | None] = []
        usage = figures.get("gate/m_usage")
        if self.has_memory and usage is not None and usage < 0.2 and warmed_up:
            alarms.append(
                self._rarely("A2", "the memory is hardly used: is there anything to remember?", {"m_usage": usage})
            )
        if self.max_steps > 1 and warmed_up and "act/avg_steps" in figures:
            names = ["act/avg_steps", "act/halt_prob_step0", "act/largest_halt_prob"]
            evidence = {key: figures[key] for key in names if key in figures}
            if figures.get("act/halt_prob_step0", 0.0) > 0.9:
                alarms.append(Alarm("C1", "always halts at once: the threshold is raised", evidence, "raise_threshold"))
            elif figures.get("act/largest_halt_prob", 1.0) < 0.1:
                alarms.append(Alarm("C1", "never halts: the threshold is lowered", evidence, "lower_threshold"))
            if figures["act/avg_steps"] < 1.5:
                alarms.append(self._rarely("A2", "hardly any second step: is there multi-step text?", evidence))
        return [alarm for alarm in alarms if alarm is not None]

    def _swing(self) -> float:
        """Largest difference between means of ten losses within the window; 0 until it is full."""
        if len(self.losses) < WINDOW:
            return 0.0
        values = list(self.losses)
        means = [sum(values[at : at + 10]) / 10 for at in range(0, WINDOW, 10)]
        # A falling loss is no oscillation: only what rises again counts.
        return max(later - earlier for at, earlier in enumerate(means) for later in means[at:])

    def _rarely(self, failure: str, message: str, evidence: dict[str, float]) -> Alarm | None:
        """An alarm without action, the 1st, 10th, 100th … time that it is seen."""
        key = f"{failure} {message}"
        self.raised[key] = seen = self.raised.get(key, 0) + 1
        return Alarm(failure, message, evidence) if seen in (1, 10, 100, 1000) else None
