"""Paired bootstrap: intervals that hold what they should, and the same again."""

import numpy as np
import pytest

from agent_forge.evaluation.bits_per_byte import Score
from agent_forge.evaluation.statistics import ONE_SIDED, compare_scores, most_lost, paired_bootstrap


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


def flips(lost, gained, count):
    """Answers before and after, of which some went wrong and some came right."""
    before = [True] * lost + [False] * gained + [True] * (count - lost - gained)
    after = [False] * lost + [True] * gained + [True] * (count - lost - gained)
    return before, after


def test_without_a_difference_the_number_of_questions_decides():
    for count in (1, 10, 133, 600):
        squared = ONE_SIDED**2
        assert most_lost(*flips(0, 0, count)) == pytest.approx(squared / (count + squared), rel=1e-9)


def test_the_end_of_the_interval_is_where_the_score_statistic_says():
    """Tango's statistic by its definition, with the likeliest share of gains found by looking at many."""
    for lost, gained, count in ((3, 1, 200), (6, 1, 578), (11, 1, 562), (0, 4, 90), (20, 18, 400)):
        end = most_lost(*flips(lost, gained, count))
        share = np.linspace(max(0.0, -end) + 1e-9, (1 - end) / 2 - 1e-9, 2_000_001)
        same = (count - lost - gained) * np.log(1 - 2 * share - end)
        likelihood = lost * np.log(share + end) + gained * np.log(share) + same
        best = share[likelihood.argmax()]
        statistic = (lost - gained - count * end) / np.sqrt(count * (2 * best + end * (1 - end)))
        assert statistic == pytest.approx(-ONE_SIDED, abs=2e-3)


def test_the_interval_holds_the_true_loss_as_often_as_it_says():
    generator = np.random.default_rng(0)
    held = []
    for _ in range(1500):
        drawn = generator.random(300)
        lost, gained = int((drawn < 0.03).sum()), int((drawn > 0.985).sum())
        held.append(most_lost(*flips(lost, gained, 300)) >= 0.03 - 0.015)
    assert 0.93 <= np.mean(held) <= 0.975


def test_answers_that_cannot_be_paired_are_refused():
    for before, after in (([True], []), ([], [])):
        with pytest.raises(ValueError, match="same questions"):
            most_lost(before, after)
