"""What phase 3 measures: the figures that its gates read, on the test split, and what the report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agent_forge.data.documents import Task
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.phases.quietstar.controls import Controls
from agent_forge.phases.quietstar.hardest_tokens import hardest, relative_gain

CONTROLS = ("off", "shuffled", "filler")
SHOWN = 12


def figures(found: Controls) -> dict[str, float]:
    """Accuracies under each condition, what thoughts gain over each control, and their coherence.

    A relative gain over a control that got nothing right is taken over one right answer.
    """
    least = 1 / len(found.own)
    measured = {"quietstar/accuracy_on": float(found.on.mean()), "quietstar/accuracy_own": float(found.own.mean())}
    for name in CONTROLS:
        control = getattr(found, name)
        accuracy = float(control.mean())
        measured[f"quietstar/accuracy_{name}"] = accuracy
        gain = float(found.on.mean()) - accuracy
        measured[f"quietstar/gain_over_{name}"] = gain / max(accuracy, least)
        sure = paired_bootstrap(found.on.astype(float), control.astype(float))
        measured[f"quietstar/sure_gain_over_{name}"] = sure.low
    whole = found.coherence.whole
    injected = ~found.skipped
    measured |= {
        "quietstar/coherence": float(whole[injected].mean()) if injected.any() else 0.0,
        "quietstar/valid_thoughts_fraction": float(injected.mean()),
        "quietstar/skipped": float(found.skipped.sum()),
        "quietstar/hurt": float((found.off & ~found.on).sum()),
        "quietstar/helped": float((found.on & ~found.off).sum()),
        "quietstar/thought_tokens": float(found.tokens.mean()),
    }
    if whole.std() > 0 and found.own.std() > 0:
        measured["quietstar/coherence_correctness_correlation"] = float(np.corrcoef(whole, found.own)[0, 1])
    return measured


def hardest_figures(found: Controls, given: np.ndarray) -> dict[str, float]:
    """Nats of the right answers' tokens by condition, and what thoughts gain on the hardest of them.

    Args:
        found: of `run_controls`.
        given: [M] nats of the same tokens under the model as it came, without a thought: they say which are hardest.
    """
    chosen = hardest(given)
    measured = {"quietstar/hardest_tokens": float(chosen.sum()), "quietstar/hardest_nats_before": _mean(given[chosen])}
    for name in ("own", *CONTROLS):
        measured[f"quietstar/answer_nats_{name}"] = _mean(found.nats[name])
        measured[f"quietstar/hardest_nats_{name}"] = _mean(found.nats[name][chosen])
    for name in CONTROLS:
        gain = relative_gain(found.nats["own"][chosen], found.nats[name][chosen], found.questions[chosen])
        measured[f"quietstar/hardest_tokens_gain_over_{name}"] = gain.difference
        measured[f"quietstar/sure_hardest_tokens_gain_over_{name}"] = gain.low
    return measured


def _mean(values: np.ndarray) -> float:
    return float(values.mean())


def report_page(tasks: Sequence[Task], found: Controls, measured: dict[str, float], **facts: Any) -> dict[str, Any]:
    """JSON for the report: figures, accuracy and nats by way of thinking, and some thoughts as they were."""
    kinds = sorted({task.kind for task in tasks})
    by_kind, nats_by_kind = {}, {}
    for kind in kinds:
        own = np.asarray([task.kind == kind for task in tasks])
        by_kind[kind] = {name: _mean(getattr(found, name)[own]) for name in ("on", *CONTROLS)}
        nats_by_kind[kind] = {name: _mean(nats[own[found.questions]]) for name, nats in found.nats.items()}
    whole = found.coherence.whole
    samples = [
        {
            "question": task.prompt,
            "thought": found.thoughts[number],
            "answer": found.answers[number],
            "right": bool(found.own[number]),
            "coherence": float(whole[number]),
            "injected": not bool(found.skipped[number]),
        }
        for number, task in enumerate(tasks[:SHOWN])
    ]
    return {
        "measured": dict(measured), "by_kind": by_kind, "nats_by_kind": nats_by_kind, "samples": samples, **facts,
    }  # fmt: skip
