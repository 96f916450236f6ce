"""From what a session recorded to the charts of its report. What was not recorded gives no chart."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from agent_forge.pipeline.charts import MAX_SERIES, Axis, Series, family_chart, line_chart, scatter_chart
from agent_forge.tracking.curves import Curve

_MOST_CHARTS = 36
_MOST_RELATIVES = 40
_WIDE = 12.0

_KNOWN: tuple[tuple[str, str, str, str], ...] = (
    # pattern of the metric's last parts, section, unit, what to look for
    (r"bits_per_byte$", "quality", "bits per byte", "Lower is better; comparable between tokenizers."),
    (r"perplexity$", "quality", "perplexity", "Lower is better; only comparable with the same tokenizer."),
    (r"(^|[/_])loss$", "quality", "nats per token", "Should fall and flatten without jumps."),
    (r"acc(uracy)?$", "quality", "fraction", "Exact answers."),
    (r"m_usage$", "inside", "fraction", "Share of the memory path in the gate; below 0.2 the memory is unused (A2)."),
    (r"avg_steps$", "inside", "recursion steps", "Adaptive computation; below 1.5 it always halts at once (C1)."),
    (r"halt", "inside", "probability", "Chance of halting; above 0.9 at step 0 it always halts (C1)."),
    (r"entropy$", "inside", "nats", "Near zero means that one choice has won."),
    (r"rope_norm$", "inside", "norm", "Leaves 1.0 when clipping damages the rotary key (E1)."),
    (r"^(gate|act|memory|attn|attention|recursion|model)/", "inside", "value", ""),
    (r"(^|/)(lr|learning_rate)", "training", "learning rate", ""),
    (r"norm", "training", "norm", "Above 10 is a warning, above 100 an emergency (C2)."),
    (r"per_second", "training", "tokens per second", ""),
)
_MAY_BE_LOG = ("nats per token", "perplexity", "norm")
_SECTIONS = ("quality", "inside", "training", "other")


def curve_charts(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, list[dict[str, Any]]]:
    """Charts by section, one per metric; branches of one metric share a chart.

    Args:
        curves: phase → metric → curve. ``trunk/train/loss`` is metric ``train/loss`` of branch ``trunk``.
    """
    charts: dict[str, list[dict[str, Any]]] = {section: [] for section in _SECTIONS}
    for phase, metrics in curves.items():
        families: dict[str, list[Series]] = {}
        for name, curve in metrics.items():
            branch, metric = _split(name)
            if series := _series(branch or metric, curve):
                families.setdefault(metric, []).append(series)
        for metric, family in families.items():
            section, unit, note = _known(metric)
            for start in range(0, len(family), MAX_SERIES):
                svg = line_chart(
                    f"{phase}: {metric}",
                    family[start : start + MAX_SERIES],
                    Axis("step"),
                    Axis(unit, log=unit in _MAY_BE_LOG and _wide(family)),
                )
                charts[section].append({"phase": phase, "title": metric, "note": note, "svg": svg})
    return {section: found[:_MOST_CHARTS] for section, found in charts.items() if found}


def _split(name: str) -> tuple[str, str]:
    """Branch and metric: the metric is the last two parts."""
    parts = name.split("/")
    return "/".join(parts[:-2]), "/".join(parts[-2:])


def _known(metric: str) -> tuple[str, str, str]:
    for pattern, section, unit, note in _KNOWN:
        if re.search(pattern, metric):
            return section, unit, note
    return "other", "value", ""


def _series(name: str, curve: Curve) -> Series | None:
    """A curve as a line, with its band where a point stands for many rows; None with fewer than two values."""
    steps, last = [float(step) for step in curve.steps], [float(value) for value in curve.last]
    points = [(step, value) for step, value in zip(steps, last, strict=True) if math.isfinite(value)]
    if len(points) < 2:
        return None
    if curve.rows_per_point == 1:
        return Series(name, list(zip(steps, last, strict=True)))
    edges = zip(steps, (float(low) for low in curve.low), (float(high) for high in curve.high), strict=True)
    return Series(name, list(zip(steps, last, strict=True)), list(edges))


def _wide(family: Iterable[Series]) -> bool:
    """Whether the values span so much that a logarithmic axis shows more."""
    values = [value for series in family for _, value in series.points]
    values += [value for series in family for _, *edges in series.band for value in edges]
    values = [value for value in values if math.isfinite(value)]
    return min(values) > 0 and max(values) / min(values) > _WIDE


def evolution_charts(fitness: Any) -> list[dict[str, Any]]:
    """Fitness and diversity by generation.

    Args:
        fitness: rows with ``generation`` and numbers, as phase 2 attaches them.
    """
    rows = [row for row in fitness if isinstance(row, Mapping) and "generation" in row] if fitness else []
    names = [name for name in dict.fromkeys(key for row in rows for key in row) if name != "generation"]
    lines: dict[str, Series] = {}
    for name in names:
        points = [
            (float(row["generation"]), float(row[name]))
            for row in rows
            if isinstance(row.get(name), int | float) and not isinstance(row.get(name), bool)
        ]
        if len(points) > 1:
            lines[name] = Series(name.replace("_", " "), points)
    groups = {
        "Fitness": (
            [lines[name] for name in lines if "fitness" in name or name in ("best", "mean", "worst")],
            "fitness",
        ),
        "Diversity": ([lines[name] for name in lines if "diversity" in name], "diversity"),
    }
    return [
        {
            "phase": "evomerge",
            "title": f"{title} by generation",
            "note": "",
            "svg": line_chart(f"{title} by generation", series[:MAX_SERIES], Axis("generation"), Axis(unit)),
        }
        for title, (series, unit) in groups.items()
        if series
    ]


def family_tree_chart(tree: Any) -> Markup | None:
    """The ancestors of the champion, as phase 2 attaches them.

    Args:
        tree: ``{"champion": id, "nodes": [{"id", "generation", "parents", "label", "fitness"}]}``.
    """
    if not tree or not tree.get("nodes"):
        return None
    nodes = {node["id"]: node for node in tree["nodes"]}
    champion = tree["champion"]
    kept, front = dict[Any, None](), [champion]
    while front and len(kept) < _MOST_RELATIVES:
        kept.update(dict.fromkeys(front))
        above = dict.fromkeys(parent for each in front for parent in nodes[each]["parents"])
        front = [each for each in above if each in nodes and each not in kept]
    return family_chart("Ancestors of the champion", [nodes[each] for each in kept], champion)


def ladder_chart(ladder: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Size against quality; forms without a measured quality are only in the table."""
    points = [
        (str(row["name"]), float(row["bytes"]), float(row["bits_per_byte"]))
        for row in ladder
        if row.get("bits_per_byte") is not None
    ]
    if len(points) < 2:
        return None
    return scatter_chart(
        "Size and quality of every form of the model", points, Axis("bytes", log=True), Axis("bits per byte")
    )
