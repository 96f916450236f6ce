from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.health.detectors import (
    Evidence,
    Signal,
    Watch,
    amplification,
    disk_fraction,
    evaluate,
    first_not_finite,
    improvement,
    largest_rise,
    loss_variance,
    memory_fraction,
    plateau,
    saturation,
    slope,
)


def test_hand_examples() -> None:
    assert first_not_finite(np.array([1.0, math.inf, math.nan])) == 1
    assert first_not_finite(np.array([1.0, 2.0])) is None
    assert improvement(np.array([4.0, 4.0, 3.0, 3.0])) == 0.25
    assert saturation(np.array([0.0, 0.5, 0.99, 1.0]), 0.01, 0.98) == 0.75
    assert slope(np.array([1.0, 3.0, 5.0])) == 2.0
    assert amplification(3.0, 2.0) == 1.5
    assert amplification(1.0, 0.0) == math.inf
    assert amplification(0.0, 0.0) == 1.0
    # Around the line 0, 0, 0, 0: residuals of +1, −1, −1, +1 (no slope), so variance 1.
    assert loss_variance(np.array([1.0, -1.0, -1.0, 1.0])) == 1.0
    # Tenths are single values here: the deepest is 2, and 5 comes after it.
    assert largest_rise(np.array([9.0, 8, 7, 2, 3, 4, 5, 1, 1, 1])) == 3.0


@given(start=st.floats(-100, 100), step=st.floats(-10, 10), count=st.integers(3, 50))
def test_steady_change_is_neither_variance_nor_a_rise(start: float, step: float, count: int) -> None:
    line = start + step * np.arange(count)
    assert loss_variance(line) < 1e-12 * max(1.0, float(np.abs(line).max())) ** 2
    assert largest_rise(start - abs(step) * np.arange(count)) <= 1e-9
    assert slope(line) == pytest.approx(step, abs=1e-9)


def test_plateau_needs_values_and_a_flat_line() -> None:
    assert not plateau(np.array([1.0, 1.0, 1.0]))
    assert plateau(np.ones(10))
    assert not plateau(np.linspace(2, 1, 10))
    with pytest.raises(ValueError, match="at least two"):
        improvement(np.array([1.0]))


def test_shares_of_the_machine_are_shares() -> None:
    assert 0 < memory_fraction() < 1
    assert memory_fraction(1) > 1
    assert 0 <= disk_fraction("/") <= 1
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="positive"):
            memory_fraction(wrong)
    with pytest.raises(ValueError, match="negative"):
        amplification(-1.0, 1.0)


STEPS = np.arange(300)
CASES = [
    (Signal("x", "above", 0.9, window=50), np.where(STEPS < 200, 0.5, 1.0)),
    (Signal("x", "below", 0.1, window=50), np.where(STEPS < 200, 0.5, 0.0)),
    (Signal("x", "variance", 0.5, window=50), np.where(STEPS < 200, 0.0, 2.0 * (-1.0) ** STEPS)),
    (Signal("x", "rise", 0.5, window=50), np.where(STEPS < 200, -STEPS / 100, STEPS / 10 - 22)),
    (Signal("x", "flat", 0.01, window=50), np.maximum(5 - STEPS / 50, 1.0)),
    (Signal("x", "not_finite"), np.where(STEPS == 210, math.nan, 1.0)),
]


@pytest.mark.parametrize(("signal", "values"), CASES, ids=[case[0].kind for case in CASES])
def test_each_signal_is_seen_within_its_window_and_not_before(signal: Signal, values: np.ndarray) -> None:  # type: ignore[type-arg]
    evidence = evaluate(signal, STEPS.astype(float), values)
    assert evidence is not None
    assert 200 <= evidence.step <= 210 + signal.window
    assert evaluate(signal, STEPS[:195].astype(float), values[:195]) is None
    assert signal.metric in evidence.sentence()
    assert str(evidence.step) in evidence.sentence()


def test_diverging_needs_both_to_fall() -> None:
    signal = Signal("perplexity", "diverging", window=50, against="accuracy")
    falling, rising = 1 - STEPS / 1000, STEPS / 1000
    assert evaluate(signal, STEPS.astype(float), falling, falling) is not None
    assert evaluate(signal, STEPS.astype(float), falling, rising) is None
    assert evaluate(signal, STEPS.astype(float), rising, falling) is None
    with pytest.raises(ValueError, match="second curve"):
        evaluate(signal, STEPS.astype(float), falling)


def test_a_threshold_that_is_met_exactly_is_not_passed() -> None:
    for kind in ("above", "below"):
        signal = Signal("x", kind, 0.5, window=10)  # type: ignore[arg-type]
        assert evaluate(signal, STEPS.astype(float), np.full(300, 0.5)) is None


def test_a_window_that_is_not_full_proves_nothing() -> None:
    signal = Signal("x", "above", 0.9, window=100)
    assert evaluate(signal, np.arange(99.0), np.ones(99)) is None
    assert evaluate(signal, np.arange(100.0), np.ones(100)) is not None
    assert evaluate(signal, np.arange(0.0, 300.0, 50.0), np.ones(6)) is not None  # logged every 50 steps


def test_curves_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="3 steps but 2"):
        evaluate(CASES[0][0], np.arange(3.0), np.ones(2))


@settings(max_examples=60)
@given(case=st.sampled_from(CASES), every=st.sampled_from([1, 3, 7]))
def test_the_watch_sees_first_what_evaluate_sees(case: tuple[Signal, np.ndarray], every: int) -> None:  # type: ignore[type-arg]
    signal, values = case
    seen: list[tuple[str, Evidence]] = []
    watch = Watch({"F": (signal,)}, lambda failure, evidence: seen.append((failure, evidence)))
    for step in STEPS[::every]:
        watch.feed(int(step), {"x": float(values[step]), "other": 0.0})
    expected = evaluate(signal, STEPS[::every].astype(float), values[::every])
    assert expected is not None
    assert seen[0][0] == "F"
    assert seen[0][1].step == expected.step
    assert seen[0][1].measured == pytest.approx(expected.measured, nan_ok=True)


def test_the_watch_speaks_once_and_again_after_it_was_gone() -> None:
    seen: list[int] = []
    watch = Watch({"F": (Signal("x", "above", 0.5, window=1),)}, lambda _, evidence: seen.append(evidence.step))
    for step, value in enumerate([0, 1, 1, 1, 0, 1, 1]):
        watch.feed(step, {"x": float(value)})
    assert seen == [1, 5]
    assert watch.feed(7, {"unrelated": 9.0}) == []


def test_the_watch_waits_for_the_second_curve() -> None:
    signal = Signal("a", "diverging", window=3, against="b")
    watch = Watch({"F": (signal,)}, lambda failure, evidence: None)
    assert [bool(watch.feed(step, {"a": -float(step)})) for step in range(4)] == [False] * 4
    watch = Watch({"F": (signal,)}, lambda failure, evidence: None)
    assert [bool(watch.feed(step, {"a": -float(step), "b": -float(step)})) for step in range(4)] == [
        False, False, True, False,
    ]  # fmt: skip
