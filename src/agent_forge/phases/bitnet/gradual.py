"""Gradual quantization: stages of layers, each one tried, validated and, where it breaks the model, undone.

Robust layers come first. A stage moves its layers from full precision (λ = 0) to three levels (λ = 1) while the
whole model trains against its teacher. Then the model is validated. Where the bound is broken the stage is undone,
its most sensitive half goes up a rung (three levels → 2 bits → 4 bits → fp16), and it is tried again
(premortem PR4). fp16 is the last rung, so every stage ends.

The idea of quantizing by parts is that of INQ (Zhou et al. 2017, arXiv:1702.03044, section 3.2); there the parts
are weights of one layer chosen by size, here they are layers chosen by measured sensitivity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent_forge.model.ternary import FOUR_BITS, TERNARY, TWO_BITS

RUNGS = (TERNARY, TWO_BITS, FOUR_BITS, 0)
"""Levels in the order in which they are tried; 0 stands for fp16."""
RUNG_NAMES = {TERNARY: "ternary", TWO_BITS: "2 bits", FOUR_BITS: "4 bits", 0: "fp16"}


@dataclass(frozen=True)
class Attempt:
    """One try of one stage.

    Attributes:
        stage: which one.
        number: 0 for the first try.
        ratio: validated perplexity over the teacher's.
        kept: whether the bound held.
        levels: levels by layer of this stage.
    """

    stage: int
    number: int
    ratio: float
    kept: bool
    levels: dict[str, int]


@dataclass(frozen=True)
class Progress:
    """Where gradual quantization stands; all that a resumed run has to know.

    Attributes:
        stage: next stage.
        number: tries of it so far.
        levels: levels of every layer that was decided or raised.
    """

    stage: int = 0
    number: int = 0
    levels: Mapping[str, int] | None = None


def quantize_gradually(
    stages: Sequence[Sequence[str]],
    progress: Progress,
    *,
    attempt: Callable[[int, Mapping[str, int]], float],
    undo: Callable[[], None],
    keep: Callable[[Progress], None],
    bound: float,
    max_attempts: int,
    observe: Callable[[Attempt], None],
) -> dict[str, int]:
    """Runs the stages that are left.

    Args:
        stages: layers of each stage, the robust first; inside a stage too.
        progress: where to start.
        attempt: trains stage number → its layers with these levels, and returns the validated perplexity ratio.
        undo: puts the model back to where the last ``keep`` left it.
        keep: takes the model as it is for the new starting point, with the progress to resume from.
        bound: the largest ratio that is kept.
        max_attempts: tries of a stage before all of its layers stay in fp16.
        observe: told about every try.

    Returns:
        Levels by layer, 0 = fp16.

    Raises:
        ValueError: the bound is not above 1, or fewer than two attempts.
    """
    if bound <= 1 or max_attempts < 2:
        raise ValueError(f"bound must be above 1 and max_attempts at least 2, got {bound} and {max_attempts}")
    levels = dict(progress.levels or {})
    number = progress.number
    for stage in range(progress.stage, len(stages)):
        while True:
            chosen = {name: levels.get(name, TERNARY) for name in stages[stage]}
            # 1. Train the stage at these levels and validate.
            ratio = attempt(stage, chosen)
            untouched = not any(chosen.values())
            kept = ratio <= bound or untouched
            observe(Attempt(stage, number, ratio, kept, chosen))
            if kept:
                break
            # 2. Undo, and give the most sensitive half of what is still lowest another rung.
            undo()
            number += 1
            raised = raise_levels(stages[stage], chosen) if number < max_attempts - 1 else dict.fromkeys(chosen, 0)
            levels.update(raised)
            keep(Progress(stage, number, dict(levels)))
        levels.update(chosen)
        number = 0
        keep(Progress(stage + 1, 0, dict(levels)))
    return levels


def raise_levels(names: Sequence[str], levels: Mapping[str, int]) -> dict[str, int]:
    """Levels with the most sensitive half (the end of ``names``) of the lowest rung one rung higher."""
    rung = min(RUNGS.index(levels[name]) for name in names)
    lowest = [name for name in names if RUNGS.index(levels[name]) == rung]
    raised = lowest[len(lowest) // 2 :]
    return {**levels, **{name: RUNGS[min(rung + 1, len(RUNGS) - 1)] for name in raised}}
