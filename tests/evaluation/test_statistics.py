"""Paired bootstrap: intervals that hold what they should, and the same again."""

import numpy as np
import pytest

from agent_forge.evaluation.bits_per_byte import Score
from agent_forge.evaluation.statistics import compare_scores, paired_bootstrap


def test_equal_models_do_not_differ():
    bits = np.linspace(1, 2, 50)
    found = paired_bootstrap(bits, bits)
    assert (found.difference, found.low, found.high, found.clear) == (0, 0, 0, False)


def test_a_constant_gap_is_clear_whatever_the_documents():
    generator = np.random.default_rng(0)
    hard = generator.normal(5, 3, 40)
    found = paired_bootstrap(hard - 0.01, hard)
    assert found.difference == pytest.approx(-0.01)
    assert found.clear
    assert found.below_zero_fraction == 1.0


def test_the_interval_matches_the_normal_theory():
    generator = np.random.default_rng(1)
    gap = generator.normal(0.2, 1.0, 400)
    found = paired_bootstrap(gap, np.zeros(400), resamples=4000)
    half = 1.96 * gap.std() / 20
    assert found.low == pytest.approx(gap.mean() - half, abs=0.01)
    assert found.high == pytest.approx(gap.mean() + half, abs=0.01)


def test_weights_by_hand_and_same_seed_same_interval():
    first, second, sizes = np.array([4.0, 2.0]), np.array([2.0, 3.0]), np.array([2.0, 1.0])
    found = paired_bootstrap(first, second, sizes, seed=3)
    assert found.difference == pytest.approx((2 - 1) / 3)
    assert found == paired_bootstrap(first, second, sizes, seed=3)
    assert found.to_json()["documents"] == 2


def test_scores_of_the_same_texts_only():
    def score(sizes):
        return Score.of(np.ones(len(sizes)), np.array(sizes), np.array(sizes))

    assert compare_scores(score([4, 5]), score([4, 5])).difference == 0
    with pytest.raises(ValueError, match="different texts"):
        compare_scores(score([4, 5]), score([4, 6]))


@pytest.mark.parametrize("sizes", [[0.0, 0.0], [1.0]])
def test_what_cannot_be_compared(sizes):
    with pytest.raises(ValueError, match=r"sizes|shapes"):
        paired_bootstrap(np.ones(2), np.ones(2), np.array(sizes))
