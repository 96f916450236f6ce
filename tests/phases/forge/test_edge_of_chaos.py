import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.phases.forge.edge_of_chaos import (
    EASY_FRACTION,
    Tally,
    by_kind,
    edge_level,
    gradient_noise,
    mixture,
    passed_levels,
    uniform,
)

RATES = st.dictionaries(st.integers(1, 10), st.floats(0, 1), min_size=1)


@pytest.mark.parametrize(
    ("success", "edge"),
    [
        ({1: 0.95, 2: 0.74, 3: 0.2}, 2),  # nearest to 75%
        ({1: 0.95, 2: 0.82, 3: 0.3}, 3),  # nearest is 2, and it is passed
        ({1: 0.9, 2: 0.9, 3: 0.9}, 3),  # everything passed: the hardest
        ({1: 0.0, 2: 0.0, 3: 0.0}, 1),  # nothing yet: the easiest
        ({1: 0.0, 2: 0.7}, 1),  # luck at level 2
        ({4: 0.75}, 4),
        ({1: 0.8, 2: 0.7}, 2),
    ],
)
def test_the_edge_by_hand(success, edge):
    assert edge_level(success) == edge


@settings(deadline=None)
@given(RATES)
def test_no_level_below_the_edge_is_out_of_reach(success):
    edge = edge_level(success)
    assert edge in success
    lower = [n for n in success if n < edge]
    # whatever lies below the edge is nearer to full success than to none
    assert all(success[n] >= 0.375 for n in lower)


@pytest.mark.parametrize("success", [{}, {1: 1.2}, {1: float("nan")}])
def test_rates_that_are_none_are_refused(success):
    with pytest.raises(ValueError, match="shares"):
        edge_level(success)


def test_levels_are_passed_in_a_row():
    assert passed_levels({1: 0.9, 2: 0.8, 3: 0.79, 4: 1.0}) == [1, 2]
    assert passed_levels({1: 0.1}) == []


def test_the_mixture_by_hand():
    shares = mixture([1, 2, 3, 4, 5], 3, easy=0.2, hard=0.2)
    # above: 3/4 and 1/4 of 0.2; below: half of 0.2 each
    assert shares == pytest.approx({1: 0.1, 2: 0.1, 3: 0.6, 4: 0.15, 5: 0.05})
    spread = mixture([1, 2, 3, 4, 5], 3, easy=0.2, hard=0.2, spread=0.3)
    assert spread[3] == pytest.approx(0.42)
    assert spread[2] == pytest.approx(0.19)


@settings(deadline=None)
@given(st.integers(1, 10), st.integers(1, 10), st.floats(0.2, 0.6), st.floats(0, 0.3), st.floats(0, 0.3))
def test_every_mixture_keeps_a_fifth_easy(top, edge, easy, hard, spread):
    levels = list(range(1, top + 1))
    if edge > top:
        with pytest.raises(ValueError, match="mixture"):
            mixture(levels, edge)
        return
    shares = mixture(levels, edge, easy=easy, hard=hard, spread=spread)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= 0 for share in shares.values())
    if edge > 1:
        assert sum(shares[n] for n in levels if n < edge) >= EASY_FRACTION - 1e-9
    assert uniform(levels)[1] == pytest.approx(1 / top)


def test_too_little_that_is_easy_is_refused():
    with pytest.raises(ValueError, match=r"at least 0\.2"):
        mixture([1, 2], 2, easy=0.1)


def test_a_kind_that_stays_hard_does_not_hold_back_the_others():
    rates = {"sum": {1: 0.1, 2: 0.0}, "turn": {1: 1.0, 2: 0.9, 3: 0.4}}
    shares = by_kind(rates, [1, 2, 3], easy=0.25, hard=0.15)
    assert sum(x for own in shares.values() for x in own.values()) == pytest.approx(1)
    assert max(shares["sum"], key=shares["sum"].get) == 1
    assert max(shares["turn"], key=shares["turn"].get) == 3
    assert sum(shares["sum"].values()) == pytest.approx(0.5)
    done = by_kind({"sum": {1: 0.1}, "turn": {1: 1.0, 2: 1.0, 3: 1.0}}, [1, 2, 3])
    assert sum(done["turn"].values()) == pytest.approx(0.25)


def test_a_tally_forgets_by_halves():
    tally = Tally().after({"sum": {1: (4, 8)}}).after({"sum": {1: (8, 8), 2: (0, 3)}})
    assert tally.counts == {"sum": {1: (10.0, 12.0), 2: (0.0, 3.0)}}
    assert tally.rates()["sum"] == pytest.approx({1: 10.5 / 13, 2: 0.5 / 4})
    assert Tally.from_json(tally.to_json()) == tally


def test_gradient_noise_by_hand():
    g = [torch.tensor([3.0, 4.0])]
    assert gradient_noise(g, g) == 0
    assert gradient_noise(g, [torch.tensor([4.0, -3.0])]) == pytest.approx(1)
    assert gradient_noise(g, [torch.tensor([-3.0, -4.0])]) == pytest.approx(2)
    assert gradient_noise([torch.zeros(2)], [torch.zeros(2)]) == 0
