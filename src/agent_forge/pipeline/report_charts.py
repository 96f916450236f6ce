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
_OFF_THE_CHART = 1.25
"""Times the lowest bits per byte."""

_KNOWN: tuple[tuple[str, str, str, str], ...] = (
    # pattern of the family, section, unit, what to look for
    (r"bits_per_byte$", "quality", "bits per byte", "Selection split. Lower is better; comparable between tokenizers."),
    (r"perplexity$", "quality", "perplexity", "Lower is better; only comparable with the same tokenizer."),
    (r"validation_ratio$", "quality", "ratio of perplexities", "Against the model before it became ternary."),
    (r"(^|/)loss$", "quality", "nats per token", "Should fall and flatten without jumps."),
    (r"(^|/)(acc(uracy)?|.*_acc(uracy)?)$", "quality", "fraction", "Share of right answers."),
    (r"m_usage$", "inside", "fraction", "Share of the memory path in the gate; below 0.2 the memory is unused (A2)."),
    (r"avg_steps$", "inside", "recursion steps", "Adaptive computation; below 1.5 it always halts at once (C1)."),
    (r"halt_prob", "inside", "probability", "Chance of halting; above 0.9 at step 0 it always halts (C1)."),
    (r"entropy(_fraction)?$", "inside", "entropy", "Near zero means that one choice has won."),
    (r"rope_norm$", "inside", "norm", "Falls when clipping damages the rotary key (E1)."),
    (r"^(gate|act|memory|attn|recursion|model)/", "inside", "value", ""),
    (r"(^|/)(lr|learning_rate|rate)$", "training", "learning rate", ""),
    (r"norm", "training", "norm", "Above 10 is a warning, above 100 an emergency (C2)."),
    (r"per_second", "training", "tokens per second", ""),
    (r"chaos$", "training", "chaos", "How much input, weights and levels are disturbed; never above 0.3 (CF2)."),
    (r"sensitivity$", "inside", "nats per layer", "Growth of a small difference; above 0 the network is chaotic."),
    (r"^(optim|grokfast|grad|bitnet|forge)/", "training", "value", ""),
)
_MAY_BE_LOG = ("nats per token", "perplexity", "norm")
_SECTIONS = ("quality", "inside", "training", "other")
_SHARED = ("loss", "accuracy")
"""Prefixes whose metrics share a chart."""
_SHOWN_ELSEWHERE = ("evomerge/best_fitness", "evomerge/mean_fitness", "evomerge/diversity")


def curve_charts(curves: Mapping[str, Mapping[str, Curve]]) -> dict[str, list[dict[str, Any]]]:
    """Charts by section; metrics of one family (the parts of the loss, the domains of a score) share a chart.

    Args:
        curves: phase → metric → curve.
    """
    charts: dict[str, list[dict[str, Any]]] = {section: [] for section in _SECTIONS}
    for phase, metrics in curves.items():
        families: dict[str, list[Series]] = {}
        for name, curve in metrics.items():
            family, label = _split(name)
            if name not in _SHOWN_ELSEWHERE and (series := _series(label, curve)):
                families.setdefault(family, []).append(series)
        for title, family_series in families.items():
            family_series = _distinct(family_series)
            section, unit, note = _known(title)
            log = unit in _MAY_BE_LOG and _wide(family_series)
            for start in range(0, len(family_series), MAX_SERIES):
                part = family_series[start : start + MAX_SERIES]
                svg = line_chart(f"{phase}: {title}", part, Axis("step"), Axis(unit, log=log))
                charts[section].append({"phase": phase, "title": title, "note": note, "svg": svg})
    return {section: found[:_MOST_CHARTS] for section, found in charts.items() if found}


def _split(name: str) -> tuple[str, str]:
    """Family and label: ``valid/bits_per_byte/stories`` is ``stories`` of ``valid/bits_per_byte``."""
    parts = name.split("/")
    if parts[0] in _SHARED and len(parts) > 1:
        return parts[0], "/".join(parts[1:])
    return "/".join(parts[:2]), "/".join(parts[2:]) or "all"


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


def _distinct(family: Sequence[Series]) -> list[Series]:
    """Lines that lie on each other become one with both names."""
    found: dict[tuple[tuple[float, float], ...], Series] = {}
    for series in family:
        key = tuple(series.points)
        name = f"{found[key].name} = {series.name}" if key in found else series.name
        found[key] = Series(name, series.points, series.band)
    return list(found.values())


def _wide(family: Iterable[Series]) -> bool:
    """Whether the values span so much that a logarithmic axis shows more."""
    values = [value for series in family for _, value in series.points]
    values += [value for series in family for _, *edges in series.band for value in edges]
    values = [value for value in values if math.isfinite(value)]
    return min(values) > 0 and max(values) / min(values) > _WIDE


def evolution_charts(fitness: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fitness and diversity by generation.

    Args:
        fitness: rows with ``generation`` and, where they are known, ``best``, ``mean``, ``worst`` and ``diversity``.
    """

    def lines(**names: str) -> list[Series]:
        found = []
        for key, label in names.items():
            points = [(float(row["generation"]), float(row[key])) for row in fitness if row.get(key) is not None]
            if len(points) > 1:
                found.append(Series(label, points))
        return found

    of_fitness = lines(best="best so far", mean="mean of the generation", worst="worst")
    charts = {
        "Fitness by generation": (of_fitness, "fitness"),
        "Diversity by generation": (lines(diversity="diversity"), "mean distance (1 = random)"),
    }
    return [
        {
            "phase": "evomerge",
            "title": title,
            "note": "",
            "svg": line_chart(title, found, Axis("generation"), Axis(unit)),
        }
        for title, (found, unit) in charts.items()
        if found
    ]


def family_tree_chart(tree: Mapping[str, Any]) -> Markup | None:
    """The ancestors of the champion.

    Args:
        tree: ``champion`` (an id) and ``nodes`` with ``id``, ``generation``, ``parents``, ``label`` and ``fitness``;
            the label is the origin and, after a space, the methods joined by ``+``.
    """
    nodes = {node["id"]: node for node in tree.get("nodes", ())}
    champion = tree.get("champion")
    if champion is None or champion not in nodes:
        return None
    kept, front = dict[Any, None](), [champion]
    while front and len(kept) < _MOST_RELATIVES:
        kept.update(dict.fromkeys(front))
        above = dict.fromkeys(parent for each in front for parent in nodes[each]["parents"])
        front = [each for each in above if each in nodes and each not in kept]
    shown = [{**nodes[each], "label": _methods(nodes[each]["label"]), "tip": nodes[each]["label"]} for each in kept]
    return family_chart("Ancestors of the champion", shown, champion)


def _methods(label: str) -> str:
    """The first two methods of a label: what fits into a box."""
    return "+".join(label.split()[-1].split("+")[:2])


def ladder_chart(ladder: Sequence[Mapping[str, Any]]) -> tuple[Markup | None, list[str]]:
    """Size against quality.

    Args:
        ladder: rows with ``number`` (None where the quality was not measured), ``name``, ``bytes``, ``bits_per_byte``.

    Returns:
        The chart (None with fewer than two points), and the names of forms that are so much worse than the best
        that they would flatten all others; those are only in the table.
    """
    measured = [row for row in ladder if row.get("bits_per_byte") is not None]
    bound = _OFF_THE_CHART * min([float(row["bits_per_byte"]) for row in measured], default=0.0)
    shown = [row for row in measured if row["bits_per_byte"] <= bound]
    away = [str(row["name"]) for row in measured if row["bits_per_byte"] > bound]
    if len(shown) < 2:
        return None, away
    points = [(str(row["name"]), float(row["bytes"]), float(row["bits_per_byte"])) for row in shown]
    numbers = [int(row["number"]) for row in shown]
    title = "Size and quality of every form of the model"
    return scatter_chart(title, points, Axis("bytes", log=True), Axis("bits per byte"), numbers), away


def design_chart(points: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Error against decoded tokens of the designs of phase 7; None with fewer than two.

    Args:
        points: rows with ``name``, ``tokens``, ``accuracy`` and ``number`` (None: not in the table).
    """
    if len(points) < 2:
        return None
    shown = [(str(row["name"]), float(row["tokens"]), 1 - float(row["accuracy"])) for row in points]
    title = "Error and tokens of every design that was measured"
    return scatter_chart(title, shown, Axis("tokens a question"), Axis("error"), [row["number"] for row in points])
