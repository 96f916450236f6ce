"""Allocation against every combination, and its hull."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.phases.compression.allocation import Point, allocate, lower_hull

points = st.builds(Point, st.text("abc", min_size=1, max_size=2), st.integers(1, 60), st.integers(0, 60).map(float))
menus = st.dictionaries(st.sampled_from("wxyz"), st.lists(points, min_size=1, max_size=4), min_size=1, max_size=3)


def test_by_hand():
    menu = [Point("a", 100, 0.0), Point("b", 50, 1.0), Point("c", 40, 9.0)]
    other = [Point("a", 100, 0.0), Point("b", 90, 2.0)]
    # a→b of the first tensor saves 50 bytes for 1; of the second 10 bytes for 2; b→c of the first 10 for 8
    assert {n: p.option for n, p in allocate({"1": menu, "2": other}, max_loss=1.5).items()} == {"1": "b", "2": "a"}
    assert {n: p.option for n, p in allocate({"1": menu, "2": other}, max_loss=3.0).items()} == {"1": "b", "2": "b"}
    assert {n: p.option for n, p in allocate({"1": menu, "2": other}).items()} == {"1": "c", "2": "b"}
    assert {n: p.option for n, p in allocate({"1": menu, "2": other}, max_bytes=150).items()} == {"1": "b", "2": "a"}


def test_hull_drops_what_no_multiplier_would_choose():
    found = lower_hull([Point("a", 100, 0.0), Point("above", 60, 8.0), Point("b", 50, 8.5), Point("worse", 110, 3.0)])
    assert [point.option for point in found] == ["a", "b"]


@settings(max_examples=60, deadline=None)
@given(menus, st.integers(0, 120))
def test_no_combination_is_smaller_at_the_loss_that_was_reached(menu, bound):
    """The hull's optimality: at exactly its own loss, no other choice takes fewer bytes."""
    floor = sum(min(point.loss for point in own) for own in menu.values())
    chosen = allocate(menu, max_loss=floor + bound)
    loss, size = (sum(getattr(point, what) for point in chosen.values()) for what in ("loss", "bytes"))
    assert loss <= floor + bound
    everything = list(product(*menu.values()))
    walk_complete = all(chosen[name] == lower_hull(own)[-1] for name, own in menu.items())
    if walk_complete:
        assert size == min(sum(point.bytes for point in combination) for combination in everything)
    best = min(sum(p.bytes for p in c) for c in everything if sum(p.loss for p in c) <= floor + bound)
    largest_step = max(a.bytes - b.bytes for own in menu.values() for a in own for b in own)
    assert size <= best + largest_step * len(menu)


def test_a_tensor_without_options_is_refused():
    with pytest.raises(ValueError, match=r"\['w'\]"):
        allocate({"w": []})
