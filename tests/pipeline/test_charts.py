"""Charts are well-formed SVG that says what it shows, with every value where it belongs."""

import math
import re
from xml.etree import ElementTree

import pytest

from agent_forge.pipeline.charts import (
    HEIGHT,
    MAX_SERIES,
    WIDTH,
    Axis,
    Series,
    bar,
    family_chart,
    line_chart,
    scatter_chart,
)

STEP, LOSS = Axis("step"), Axis("nats")
RISING = Series("a <b>", [(float(step), float(step * step)) for step in range(10)])


def parse(svg):
    return ElementTree.fromstring(str(svg))


def path_points(svg, kind="line s0"):
    found = [each.attrib["d"] for each in parse(svg).iter("path") if each.attrib["class"] == kind]
    return [(float(x), float(y)) for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", found[-1])]


def test_a_line_goes_where_its_values_are():
    points = path_points(line_chart("Loss", [RISING], STEP, LOSS))
    assert len(points) == 10
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    assert points == sorted(points, key=lambda point: (point[0], -point[1])), "y grows upwards"


def test_title_description_and_escaping():
    svg = line_chart("Loss <script>", [RISING], STEP, LOSS)
    root = parse(svg)
    assert root.find("title").text == "Loss <script>"
    assert "a <b>: from 0 to 81, lowest 0, highest 81" in root.find("desc").text
    assert root.attrib["role"] == "img"
    assert set(root.attrib["aria-labelledby"].split()) == {
        root.find("title").attrib["id"],
        root.find("desc").attrib["id"],
    }
    assert "<script>" not in str(svg)


def test_values_that_are_not_finite_leave_a_gap():
    series = Series("a", [(0, 1), (1, 2), (2, math.nan), (3, 2), (4, math.inf), (5, 3)])
    drawn = next(
        e.attrib["d"]
        for e in parse(line_chart("t", [series], STEP, LOSS)).iter("path")
        if e.attrib["class"] == "line s0"
    )
    assert drawn.count("M") == 3
    assert "nan" not in drawn


def test_a_logarithmic_axis_says_so_and_leaves_out_zero():
    series = Series("a", [(0, 0.0), (1, 1.0), (2, 1000.0)])
    svg = line_chart("t", [series], STEP, Axis("nats", log=True))
    assert "nats (log)" in str(svg)
    assert len(path_points(svg)) == 2


def test_several_series_get_a_legend_with_different_dashes():
    many = [Series(f"branch {index}", RISING.points) for index in range(MAX_SERIES)]
    root = parse(line_chart("t", many, STEP, LOSS))
    dashes = {e.attrib["class"]: e.attrib["stroke-dasharray"] for e in root.iter("path") if "line" in e.attrib["class"]}
    assert len(dashes) == len(set(dashes.values())) == MAX_SERIES
    assert {f"branch {index}" for index in range(MAX_SERIES)} <= {text.text for text in root.iter("text")}


def test_a_band_encloses_its_line():
    banded = Series("a", [(0, 2.0), (1, 3.0)], [(0, 1.0, 4.0), (1, 2.0, 5.0)])
    root = parse(line_chart("t", [banded], STEP, LOSS))
    band = next(e.attrib["d"] for e in root.iter("path") if e.attrib["class"] == "band b0")
    heights = [float(y) for _, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", band)]
    assert heights[0] < heights[3]
    assert heights[1] < heights[2]


@pytest.mark.parametrize("series", [[], [RISING] * (MAX_SERIES + 1)])
def test_too_few_or_too_many_series_are_refused(series):
    with pytest.raises(ValueError, match="takes 1 to 6 series"):
        line_chart("t", series, STEP, LOSS)


def test_one_point_can_be_drawn():
    assert path_points(line_chart("t", [Series("a", [(3.0, 5.0)])], STEP, LOSS))


def test_scatter_fills_the_pareto_front_only():
    points = [("big", 4e6, 1.80), ("small", 4e5, 1.84), ("worse", 5e5, 1.95)]
    svg = scatter_chart("t", points, Axis("bytes", log=True), LOSS)
    shapes = [e.attrib["class"] for e in parse(svg).iter("circle")]
    assert shapes == ["dot on", "dot on", "dot off"]
    assert "On the Pareto front: small, big." in parse(svg).find("desc").text
    with pytest.raises(ValueError, match="at least one point"):
        scatter_chart("t", [], STEP, LOSS)


def test_numbers_of_crowded_points_do_not_cover_each_other():
    points = [(str(index), 1000.0 + index, 1.0 + index / 1000) for index in range(4)] + [("far", 1e6, 3.0)]
    root = parse(scatter_chart("t", points, Axis("bytes", log=True), LOSS, numbers=range(7, 12)))
    labels = [e for e in root.iter("text") if e.attrib["class"] == "tick strong"]
    assert [label.text for label in labels] == [str(number) for number in range(7, 12)]
    places = [(float(label.attrib["x"]), float(label.attrib["y"])) for label in labels]
    crowded = [
        (a, b) for i, a in enumerate(places) for b in places[i + 1 :] if abs(a[0] - b[0]) < 8 and abs(a[1] - b[1]) < 9
    ]
    assert crowded == []


def test_a_family_tree_connects_children_with_parents_that_are_there():
    nodes = [
        {"id": "a", "generation": 0, "parents": [], "label": "a"},
        {"id": "b", "generation": 0, "parents": [], "label": "b"},
        {"id": "c", "generation": 1, "parents": ["a", "b", "gone"], "label": "c", "fitness": 0.5},
    ]
    root = parse(family_chart("t", nodes, "c"))
    assert [e.attrib["class"] for e in root.iter("rect")] == ["node", "node", "node best"]
    assert sum(e.attrib["class"] == "edge" for e in root.iter("path")) == 2
    with pytest.raises(ValueError, match="at least one node"):
        family_chart("t", [], "c")


def test_a_bar_stays_inside_its_cell():
    assert "width:100.0%" in bar(7.0, "x")
    assert "width:0.0%" in bar(-1.0, "x")
    assert "&lt;b&gt;" in bar(0.5, "<b>")


def test_equal_charts_are_equal_bytes_and_different_ones_have_different_ids():
    first, again = line_chart("t", [RISING], STEP, LOSS), line_chart("t", [RISING], STEP, LOSS)
    other = line_chart("u", [RISING], STEP, LOSS)
    assert first == again
    assert parse(first).find("title").attrib["id"] != parse(other).find("title").attrib["id"]
