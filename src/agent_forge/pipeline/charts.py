"""Charts as inline SVG: no script, no request, colours from CSS variables so that they follow light and dark.

Every chart carries a title and a description for those who do not see it, and tells series apart by
dash and marker as well as by colour. The palette follows Okabe and Ito (2008), darkened on light
ground until each stroke has a contrast of at least 3:1 (WCAG 2.2, 1.4.11).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from agent_forge.pipeline.scales import Scale, figure, fit_scale, pareto_front, short

WIDTH, HEIGHT = 330, 236
MAX_SERIES = 6
_LEFT, _RIGHT, _BOTTOM = 42, 10, 36
_LARGEST = 1.25
"""Charts grow with the page up to this factor."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")
_LETTER = 6.6
"""Width of a letter at the font size of the charts, for layout only."""


@dataclass(frozen=True)
class Series:
    """One named line; points as (x, y). Values that are not finite leave a gap.

    Attributes:
        band: (x, low, high) where a point stands for many values; drawn as a pale area behind the line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = field(default=())


@dataclass(frozen=True)
class Axis:
    """What an axis means, and whether it is logarithmic."""

    label: str
    log: bool = False


def line_chart(title: str, series: Sequence[Series], x: Axis, y: Axis) -> Markup:
    """Lines over a shared pair of axes.

    Args:
        title: what is shown; read out by screen readers.
        series: at most `MAX_SERIES`.
        x: the horizontal axis.
        y: the vertical axis; on a logarithmic one, values that are not positive leave a gap.

    Raises:
        ValueError: no series, or more than can be told apart.
    """
    if not 1 <= len(series) <= MAX_SERIES:
        raise ValueError(f"a line chart takes 1 to {MAX_SERIES} series, and got {len(series)}")
    legend, top = _legend([each.name for each in series]) if len(series) > 1 else ("", 34)
    scale_x = _span([point[0] for each in series for point in each.points], x.log)
    values = [point[1] for each in series for point in each.points]
    values += [value for each in series for _, *edges in each.band for value in edges]
    scale_y = fit_scale(values, HEIGHT - _BOTTOM, top, log=y.log)
    marks = [_band(each, index, scale_x, scale_y) for index, each in enumerate(series)]
    marks += [_line(each, index, scale_x, scale_y) for index, each in enumerate(series)]
    told = "; ".join(_told(each) for each in series)
    return _svg(title, f"{y.label} over {x.label}. {told}", [_frame(scale_x, scale_y, x, y), *marks, legend])


def scatter_chart(
    title: str, points: Sequence[tuple[str, float, float]], x: Axis, y: Axis, numbers: Sequence[int | None] = ()
) -> Markup:
    """Numbered points with the Pareto front of those for which less is better on both axes.

    Args:
        title: what is shown.
        points: (name, x, y).
        x: the horizontal axis.
        y: the vertical axis.
        numbers: of the points, so that a table can name them, None = no number; from 1 in their order by default.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("a scatter chart needs at least one point")
    scale_x = fit_scale([point[1] for point in points], _LEFT, WIDTH - _RIGHT, log=x.log, wanted=4)
    scale_y = fit_scale([point[2] for point in points], HEIGHT - _BOTTOM, 34, log=y.log)
    front = pareto_front([(point[1], point[2]) for point in points])
    corners = [(scale_x(points[index][1]), scale_y(points[index][2])) for index in front]
    parts = [_frame(scale_x, scale_y, x, y), Markup('<path class="front" d="{}"/>').format(_stairs(corners))]
    # Numbers keep clear of every dot, also of those drawn later.
    placed = [(scale_x(at_x) - 4, scale_y(at_y) + 4) for _, at_x, at_y in points]
    for index, (name, at_x, at_y) in enumerate(points):
        place = (scale_x(at_x), scale_y(at_y))
        shape = "dot on" if index in front else "dot off"
        number = numbers[index] if numbers else index + 1
        tip = f"{'' if number is None else f'{number}. '}{name}: {x.label} {figure(at_x)}, {y.label} {figure(at_y)}"
        parts.append(_dot(place, shape, tip, number, placed))
    named = ", ".join(points[index][0] for index in front)
    return _svg(title, f"{len(points)} points. On the Pareto front: {named}.", parts)


def family_chart(title: str, nodes: Sequence[Mapping[str, Any]], champion: str) -> Markup:
    """A family tree: generations from left to right, an edge from each parent to its child.

    Args:
        title: what is shown.
        nodes: each with ``id``, ``generation``, ``parents`` (ids), ``label``; ``fitness`` and ``tip`` if known.
        champion: id of the node that is marked.

    Raises:
        ValueError: no nodes.
    """
    if not nodes:
        raise ValueError("a family tree needs at least one node")
    columns: dict[int, list[Mapping[str, Any]]] = {}
    for node in nodes:
        columns.setdefault(int(node["generation"]), []).append(node)
    width = max(WIDTH, 40 + 104 * len(columns))
    height = max(150, 40 + 44 * max(len(column) for column in columns.values()))
    places = {
        node["id"]: (20 + 104 * across, 26 + (height - 40) * (down + 0.5) / len(columns[generation]))
        for across, generation in enumerate(sorted(columns))
        for down, node in enumerate(columns[generation])
    }
    parts = [
        _edge(places[parent], places[node["id"]]) for node in nodes for parent in node["parents"] if parent in places
    ]
    parts += [_box(node, places[node["id"]], node["id"] == champion) for node in nodes]
    for across, generation in enumerate(sorted(columns)):
        label = Markup('<text class="tick" x="{}" y="14">{}</text>')
        parts.append(label.format(20 + 104 * across, f"gen. {generation}"))
    told = f"{len(nodes)} members in {len(columns)} generations; the champion is {champion}."
    return _svg(title, told, parts, width=width, height=round(height))


def _span(values: Sequence[float], log: bool) -> Scale:
    """The x axis of a line chart ends where the data end."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low == high:
        low, high = (low / 2, high * 2) if log else (low - 1, high + 1)
    return Scale(low, high, _LEFT, WIDTH - _RIGHT, log)


def _svg(title: str, told: str, parts: Sequence[str], width: int = WIDTH, height: int = HEIGHT) -> Markup:
    drawing = Markup("").join(parts)
    number = hashlib.sha256(f"{title}{told}{drawing}".encode()).hexdigest()[:10]
    head = Markup(
        '<svg class="chart" viewBox="0 0 {0} {1}" style="max-width:{5}px" role="img" aria-labelledby="t{2} d{2}">'
        '<title id="t{2}">{3}</title><desc id="d{2}">{4}</desc>'
    ).format(width, height, number, title, told, round(_LARGEST * width))
    return head + drawing + Markup("</svg>")


def _frame(scale_x: Scale, scale_y: Scale, x: Axis, y: Axis) -> Markup:
    """Grid lines, ticks and the two labels."""
    left, right, bottom = scale_x.start, scale_x.end, scale_y.start
    parts = []
    for tick in scale_y.ticks():
        at = scale_y(tick)
        parts.append(Markup('<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>').format(left, at, right))
        parts.append(
            Markup('<text class="tick end" x="{:.1f}" y="{:.1f}">{}</text>').format(left - 6, at + 4, short(tick))
        )
    for tick in scale_x.ticks(4):
        at = scale_x(tick)
        parts.append(Markup('<path class="axis" d="M{:.1f} {:.1f}v4"/>').format(at, bottom))
        anchor = " end" if at > right - 12 else " mid"
        place = right if anchor == " end" else at
        parts.append(
            Markup('<text class="tick{}" x="{:.1f}" y="{:.1f}">{}</text>').format(
                anchor, place, bottom + 16, short(tick)
            )
        )
    parts.append(Markup('<path class="axis" d="M{:.1f} {:.1f}H{:.1f}"/>').format(left, bottom, right))
    note = " (log)"
    parts.append(Markup('<text class="label" x="4" y="12">{}</text>').format(y.label + (note if y.log else "")))
    parts.append(
        Markup('<text class="label end" x="{:.1f}" y="{:.1f}">{}</text>').format(
            right, bottom + 31, x.label + (note if x.log else "")
        )
    )
    return Markup("").join(parts)


def _legend(names: Sequence[str]) -> tuple[Markup, int]:
    """Rows of line samples under the label of the y axis, and where the plot may begin."""
    parts, across, down = [], 4.0, 28
    for index, name in enumerate(names):
        text = name if len(name) <= 26 else f"{name[:25]}…"
        width = 30 + _LETTER * len(text)
        if across > 4 and across + width > WIDTH:
            across, down = 4.0, down + 16
        sample = Markup('<path class="line s{}" stroke-dasharray="{}" d="M{:.1f} {}h20"/>')
        parts.append(sample.format(index, _DASHES[index], across, down - 4))
        parts.append(Markup('<text class="tick" x="{:.1f}" y="{}">{}</text>').format(across + 25, down, text))
        across += width + 10
    return Markup("").join(parts), down + 14


def _line(series: Series, index: int, scale_x: Scale, scale_y: Scale) -> Markup:
    """One line with its last point marked; gaps where a value cannot be drawn."""
    pen, drawn, last = "M", [], None
    for x, y in series.points:
        if not (math.isfinite(x) and math.isfinite(y)) or (scale_y.log and y <= 0) or (scale_x.log and x <= 0):
            pen = "M"
            continue
        last = (scale_x(x), scale_y(y), x, y)
        drawn.append(f"{pen}{last[0]:.1f} {last[1]:.1f}")
        pen = "L"
    if last is None:
        return Markup("")
    line = Markup('<path class="line s{}" stroke-dasharray="{}" d="{}"/>').format(index, _DASHES[index], "".join(drawn))
    tip = f"{series.name}: {figure(last[3])} at {figure(last[2])}"
    return line + Markup('<circle class="tip f{}" cx="{:.1f}" cy="{:.1f}" r="3.5"><title>{}</title></circle>').format(
        index, last[0], last[1], tip
    )


def _band(series: Series, index: int, scale_x: Scale, scale_y: Scale) -> Markup:
    """Between the lowest and the highest value behind each point."""
    shown = [
        (x, low, high) for x, low, high in series.band if math.isfinite(low + high) and (low > 0 or not scale_y.log)
    ]
    if len(shown) < 2:
        return Markup("")
    there = [f"{scale_x(x):.1f} {scale_y(high):.1f}" for x, _, high in shown]
    back = [f"{scale_x(x):.1f} {scale_y(low):.1f}" for x, low, _ in reversed(shown)]
    return Markup('<path class="band b{}" d="M{}Z"/>').format(index, "L".join([*there, *back]))


def _told(series: Series) -> str:
    finite = [point for point in series.points if math.isfinite(point[1])]
    if not finite:
        return f"{series.name}: no finite value"
    low, high = min(point[1] for point in finite), max(point[1] for point in finite)
    return (
        f"{series.name}: from {figure(finite[0][1])} to {figure(finite[-1][1])}, "
        f"lowest {figure(low)}, highest {figure(high)}"
    )


def _stairs(corners: Sequence[tuple[float, float]]) -> str:
    """The front as steps: between two points, only what the left one reached is known."""
    path = f"M{corners[0][0]:.1f} {corners[0][1]:.1f}"
    return path + "".join(f"H{x:.1f}V{y:.1f}" for x, y in corners[1:])


def _dot(
    place: tuple[float, float], shape: str, tip: str, number: int | None, placed: list[tuple[float, float]]
) -> Markup:
    """A point with its number beside it, if it has one, moved to the side where no earlier number stands."""
    x, y = place
    dot = Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4.5"><title>{}</title></circle>').format(
        shape, x, y, tip
    )
    if number is None:
        return dot
    right, left, above, below = x + 8, x - 9 - _LETTER * len(str(number)), y - 6, y + 14
    options = [(right, above), (right, below), (left, above), (left, below), (x - 4, y - 12), (x - 4, y + 22)]
    options += [(right, y - 18), (left, y - 18), (right, y + 26), (left, y + 26), (x - 4, y - 26), (x - 4, y - 40)]
    free = [at for at in options if all(abs(at[0] - px) > 14 or abs(at[1] - py) > 11 for px, py in placed)]
    label = free[0] if free else max(options, key=lambda at: min(math.dist(at, other) for other in placed))
    placed.append(label)
    return dot + Markup('<text class="tick strong" x="{:.1f}" y="{:.1f}">{}</text>').format(*label, number)


def _edge(start: tuple[float, float], end: tuple[float, float]) -> Markup:
    x, y = start[0] + 84, start[1]
    middle = (x + end[0]) / 2
    path = f"M{x:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {end[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    return Markup('<path class="edge" d="{}"/>').format(path)


def _box(node: Mapping[str, Any], place: tuple[float, float], champion: bool) -> Markup:
    x, y = place
    label = str(node.get("label") or node["id"])
    text = label if len(label) <= 12 else f"{label[:11]}…"
    fitness = node.get("fitness")
    tip = str(node.get("tip") or label) + ("" if fitness is None else f": fitness {figure(fitness)}")
    kind = "node best" if champion else "node"
    box = Markup('<g><title>{}</title><rect class="{}" x="{:.1f}" y="{:.1f}" width="84" height="34" rx="6"/>')
    parts = box.format(tip, kind, x, y - 17) + Markup('<text class="tick" x="{:.1f}" y="{:.1f}">{}</text>').format(
        x + 6, y + (4 if fitness is None else -3), text
    )
    if fitness is not None:
        parts += Markup('<text class="tick quiet" x="{:.1f}" y="{:.1f}">{}</text>').format(
            x + 6, y + 11, figure(fitness)
        )
    return parts + Markup("</g>")


def bar(share: float, label: str) -> Markup:
    """A small horizontal bar for a table cell; ``share`` from 0 to 1."""
    width = 100 * min(max(share, 0.0), 1.0)
    return Markup('<span class="bar" title="{}"><span style="width:{:.1f}%"></span></span>').format(
        escape(label), width
    )
