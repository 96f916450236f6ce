"""Learning-rate schedules as pure functions of the share of the run that is done.

Sources: Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine); Hägele et al. 2024, arXiv:2405.18392 (warm-up,
stable, decay). Functions of a share rather than of a step, so that a run limited by time decays to zero too.
"""

from __future__ import annotations

import math


def multiplier(
    kind: str, progress: float, *, warmup_fraction: float = 0.02, decay_fraction: float = 0.4, floor: float = 0.0
) -> float:
    """The factor on the peak learning rate.

    Args:
        kind: "constant", "cosine", or "wsd" (warm-up, stable, linear decay; also called trapezoidal).
        progress: share of the run that is done; values outside [0, 1] are clamped.
        warmup_fraction: share of the run over which the rate rises linearly from near 0 to its peak.
        decay_fraction: share of the run, at its end, over which "wsd" falls linearly. At 1 − warm-up it never is
            stable.
        floor: the factor at the end.

    Returns:
        A factor in [0, 1].

    Raises:
        ValueError: unknown kind, or fractions that do not fit into the run.
    """
    if kind not in ("constant", "cosine", "wsd"):
        raise ValueError(f"schedule must be 'constant', 'cosine' or 'wsd', got {kind!r}")
    if not (0 <= warmup_fraction < 1 and 0 <= decay_fraction <= 1 and 0 <= floor <= 1):
        raise ValueError(f"fractions must lie in [0, 1]: {warmup_fraction=}, {decay_fraction=}, {floor=}")
    if kind == "wsd" and warmup_fraction + decay_fraction > 1 + 1e-9:
        raise ValueError(f"warm-up {warmup_fraction} and decay {decay_fraction} exceed the run")
    progress = min(1.0, max(0.0, progress))
    if progress < warmup_fraction:
        return progress / warmup_fraction
    if kind == "constant":
        return 1.0
    if kind == "cosine":
        done = (progress - warmup_fraction) / (1 - warmup_fraction)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    left = min(1.0, (1 - progress) / decay_fraction) if decay_fraction > 0 else 1.0
    return floor + (1 - floor) * left


def staged(progress: float, stages: list[tuple[float, int]]) -> int:
    """The value of the stage that is running, e.g. the sequence length of a length curriculum.

    Args:
        progress: share of the run that is done.
        stages: (share at which the stage starts, value), rising, the first at 0.

    Raises:
        ValueError: no stages, or the first does not start at 0, or they do not rise.
    """
    starts = [start for start, _ in stages]
    if not stages or starts[0] != 0 or starts != sorted(starts):
        raise ValueError(f"stages must start at 0 and rise, got {stages}")
    return [value for start, value in stages if start <= progress or start == 0][-1]
