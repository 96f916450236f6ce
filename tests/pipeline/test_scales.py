"""Ticks are round and inside, figures read as a person writes them, and the front is the front."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.pipeline.scales import (
    byte_size,
    duration,
    figure,
    fit_scale,
    log_ticks,
    pareto_front,
    round_ticks,
    short,
)

finite = st.floats(-1e9, 1e9, allow_subnormal=False)


def test_ticks_by_hand():
    assert round_ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_ticks(-7, 12) == [-5.0, 0.0, 5.0, 10.0]
    assert log_ticks(0.9, 1100, 4) == [1, 10, 100, 1000]
    assert log_ticks(1.5, 4.5, 3) == [1.5, 2.0, 3.0]


@pytest.mark.parametrize("call", [lambda: round_ticks(1, 1), lambda: log_ticks(0, 1), lambda: log_ticks(5, 2)])
def test_an_empty_range_is_refused(call):
    with pytest.raises(ValueError, match="axis needs"):
        call()


@given(st.lists(finite, min_size=1, max_size=20))
def test_a_linear_scale_holds_its_values_and_its_ticks(values):
    scale = fit_scale(values, 0, 100)
    assert all(-1e-6 <= scale(value) <= 100 + 1e-6 for value in values)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert ticks == sorted(set(ticks))


@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=20))
def test_a_logarithmic_scale_holds_its_values(values):
    scale = fit_scale(values, 0, 100, log=True)
    assert all(0 <= scale(value) <= 100 for value in values)
    assert all(scale.low * 0.99 <= tick <= scale.high * 1.01 for tick in scale.ticks())


def test_a_scale_without_finite_values_can_still_be_drawn():
    assert fit_scale([math.nan, math.inf], 0, 100).ticks()
    assert fit_scale([-1.0, 0.0], 0, 100, log=True)(1.0) == 0


def test_pareto_front_by_hand():
    assert pareto_front([(3, 1), (1, 3), (2, 2), (2, 3), (4, 1)]) == [1, 2, 0]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_every_point_off_the_front_is_beaten(points):
    front = pareto_front(points)
    for index, (x, y) in enumerate(points):
        beaten = any(points[at][0] <= x and points[at][1] <= y for at in front if at != index)
        assert index in front or beaten


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "not measured"), (3, "3"), (1203001.0, "1,203,001"), (0.97951, "0.9795"), (1.2e-5, "1.20e-05"),
     (math.nan, "not a number"), (math.inf, "∞"), (123456.7, "123,457"), (0.0, "0")],
)  # fmt: skip
def test_figures(value, text):
    assert figure(value) == text


def test_units():
    assert [short(1500), short(2.5e6), short(0.25), short(0)] == ["1.5k", "2.5M", "0.25", "0"]
    assert [byte_size(1023), byte_size(1536), byte_size(3 * 2**30), byte_size(None)] == [
        "1023 B", "1.5 KiB", "3 GiB", "unknown",
    ]  # fmt: skip
    assert [duration(2.34), duration(125), duration(7260), duration(None)] == [
        "2.3 s", "2 min 05 s", "2 h 01 min", "unknown",
    ]  # fmt: skip
