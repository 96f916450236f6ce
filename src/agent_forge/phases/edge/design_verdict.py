"""The verdict on a search: the chosen design, those by hand and the controls on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from agent_forge.agent.design import AgentDesign
from agent_forge.evaluation.statistics import paired_bootstrap
from agent_forge.phases.edge.design_ledger import Ledger
from agent_forge.phases.edge.design_trial import Trial

Control: TypeAlias = Literal["random", "random_by_kind", "recombined", "composed"]
BY_KIND: tuple[Control, ...] = ("random_by_kind", "composed")
"""Controls that end with the search's own choice, a row for each kind."""
Drawn: TypeAlias = tuple[AgentDesign, list[AgentDesign]]
"""What a control chose, of what it tried."""


@dataclass
class Searched:
    """What the search found.

    Attributes:
        design: the chosen one.
        front: designs that no other beats in every objective, on the questions that ranked them.
        measured: figures by name.
        page: JSON for the report.
        trials: on the test split: ``searched``, ``hand_written`` and the controls.
    """

    design: AgentDesign
    front: list[dict[str, Any]]
    measured: dict[str, float]
    page: dict[str, Any] = field(default_factory=dict)
    trials: dict[str, Trial] = field(default_factory=dict)


def verdict(
    ledger: Ledger,
    chosen: AgentDesign,
    evolved: Sequence[AgentDesign],
    others: Mapping[Control, Drawn],
    all_hand_written: bool,
    seed: int,
) -> Searched:
    """Everything on the test split, and what was counted on the way."""
    test = ledger.questions.test
    habit, *by_hand = ledger.by_hand.values()
    compared = [habit, *(by_hand if all_hand_written else [min(ledger.by_hand.values(), key=ledger.rank)])]
    controls: dict[str, AgentDesign] = {name: control for name, (control, _) in others.items()}
    trials = {design: ledger.bench.measure(design, test) for design in [chosen, *compared, *controls.values()]}
    best = min(compared, key=lambda design: (-trials[design].accuracy, trials[design].mean_tokens))
    figures = _counted(ledger, evolved, others)
    figures |= {
        "test_accuracy": trials[chosen].accuracy,
        "test_tokens": trials[chosen].mean_tokens,
        "test_blank_fraction": trials[chosen].blank / len(test),
        "routes": float(len(chosen.routes)),
    }
    judged = {"searched": trials[chosen]}
    compared_with = {"hand_written": best, "habit": habit} | controls
    for name, design in compared_with.items():
        figures |= {
            f"{name}_test_accuracy": trials[design].accuracy, f"{name}_test_tokens": trials[design].mean_tokens
        }  # fmt: skip
        figures |= _difference(name, trials[chosen], trials[design], seed)
        judged[name] = trials[design]
    rows = {
        ledger.name(design): {"test_accuracy": trials[design].accuracy, "tokens": trials[design].mean_tokens}
        for design in [chosen, *compared]
    }
    tried = [*evolved, *(design for _, drawn in others.values() for design in drawn)]
    front = ledger.front(tried)
    page: dict[str, Any] = {name: design.to_json() for name, design in controls.items()}
    page |= {
        "chosen": ledger.name(chosen),
        "best_by_hand": ledger.name(best),
        "design": chosen.to_json(),
        "test": rows,
        "front": front,
        "points": ledger.points(tried, chosen),
        "by_kind": _by_kind(ledger, trials, chosen, best),
    }
    return Searched(chosen, front, figures, page, judged)


def skipped(ledger: Ledger, share: float, reason: str) -> Searched:
    """No search: the habit, because no other design was asked the test split; and why."""
    figures = {"searched": 0.0, "head_room_accuracy": share, "evaluations": float(len(ledger.by_hand))}
    tried = list(ledger.by_hand.values())
    habit = ledger.by_hand["habit"]
    front = ledger.front(tried)
    page = {"skipped": reason, "chosen": "habit", "front": front, "points": ledger.points(tried, habit)}
    return Searched(habit, front, figures, page)


def _counted(ledger: Ledger, evolved: Sequence[AgentDesign], others: Mapping[Control, Drawn]) -> dict[str, float]:
    return {
        "searched": 1.0,
        "head_room_accuracy": max(ledger.known(design).accuracy for design in ledger.by_hand.values()),
        "evaluations": float(len(evolved)),
        "control_evaluations": float(max((len(drawn) for _, drawn in others.values()), default=0)),
        "failed_evaluations": float(sum(bool(trial.failed) for trial in ledger.trials.values())),
        "screened_evaluations": float(sum(trial.screened for trial in ledger.trials.values())),
    }


def _by_kind(
    ledger: Ledger, trials: Mapping[AgentDesign, Trial], chosen: AgentDesign, best: AgentDesign
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for family in sorted({problem.family for problem in ledger.questions.test}):
        places = [n for n, problem in enumerate(ledger.questions.test) if problem.family == family]
        found[family] = {
            "questions": len(places),
            "searched": float(np.mean([trials[chosen].right[n] for n in places])),
            "best_by_hand": float(np.mean([trials[best].right[n] for n in places])),
        }
    return found


def _difference(name: str, first: Trial, second: Trial, seed: int) -> dict[str, float]:
    """First minus second in accuracy, with a 95% interval of a paired bootstrap over the questions."""
    found = paired_bootstrap(np.array(first.right, float), np.array(second.right, float), seed=seed)
    return {f"over_{name}": found.difference, f"over_{name}_low": found.low, f"over_{name}_high": found.high}
