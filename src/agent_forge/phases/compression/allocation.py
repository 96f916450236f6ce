"""Which tensor gets which rate: fewest bytes under a bound on the predicted loss.

Shoham & Gersho 1988 ("Efficient bit allocation for an arbitrary set of quantizers"): for a multiplier λ every tensor
by itself takes the option of least bytes + λ·loss, so only the lower convex hull of its options matters. Walking all
hulls from the best option downwards, always by the step that saves most bytes per loss, visits the solutions of
every λ in turn; the walk ends where the bound would be passed or the size is reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Point:
    """One way to store a tensor: what it is called, bytes, and predicted loss in nats per token."""

    option: str
    bytes: int
    loss: float


def allocate(
    menus: Mapping[str, Sequence[Point]], *, max_loss: float = float("inf"), max_bytes: int | None = None
) -> dict[str, Point]:
    """Chooses one point per tensor.

    Args:
        menus: tensor → its points; the least lossy one is where the walk starts.
        max_loss: bound on the sum of losses.
        max_bytes: the walk stops as soon as the sum of bytes is at most this; None = as small as the bound allows.

    Returns:
        tensor → point.

    Raises:
        ValueError: a tensor without points.
    """
    empty = [name for name, points in menus.items() if not points]
    if empty:
        raise ValueError(f"no option for {empty}")
    hulls = {name: lower_hull(points) for name, points in menus.items()}
    steps = []
    for name, hull in hulls.items():
        for before, after in pairwise(hull):
            slope = (after.loss - before.loss) / (before.bytes - after.bytes)  # loss per byte saved
            steps.append((slope, name, before, after))
    steps.sort(key=lambda step: (step[0], step[1], -step[2].bytes))
    chosen = {name: hull[0] for name, hull in hulls.items()}
    size, loss = (sum(getattr(point, what) for point in chosen.values()) for what in ("bytes", "loss"))
    stuck: set[str] = set()
    for _, name, before, after in steps:  # slopes rise along a hull, so its steps come in order
        if max_bytes is not None and size <= max_bytes:
            break
        if name in stuck or loss + after.loss - before.loss > max_loss:
            stuck.add(name)  # a later, smaller step of another tensor may still fit
            continue
        chosen[name] = after
        size, loss = size + after.bytes - before.bytes, loss + after.loss - before.loss
    return chosen


def lower_hull(points: Sequence[Point]) -> list[Point]:
    """Points on the lower convex hull of (bytes, loss), from the least lossy to the smallest."""
    ordered = sorted(points, key=lambda point: (point.loss, point.bytes, point.option))
    hull: list[Point] = []
    for point in ordered:
        if hull and point.bytes >= hull[-1].bytes:
            continue  # more bytes and no less loss
        while len(hull) > 1 and _slope(hull[-2], point) <= _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(point)
    return hull


def _slope(before: Point, after: Point) -> float:
    return (after.loss - before.loss) / (before.bytes - after.bytes)
