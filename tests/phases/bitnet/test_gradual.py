import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.model.ternary import FOUR_BITS, TERNARY, TWO_BITS
from agent_forge.phases.bitnet.gradual import Progress, quantize_gradually, raise_levels


class Bench:
    """A model whose ratio is a sum of what each layer costs at its level, as real as the state machine needs."""

    def __init__(self, costs):
        self.costs, self.tried, self.undone, self.kept, self.levels = costs, [], 0, [], {}

    def run(self, stages, progress=None, bound=1.5, max_attempts=8):
        return quantize_gradually(
            stages, progress or Progress(), attempt=self.attempt, undo=self.undo, keep=self.kept.append,
            bound=bound, max_attempts=max_attempts, observe=self.tried.append,
        )  # fmt: skip

    def attempt(self, stage, levels):
        self.levels.update(levels)
        return 1 + sum(self.costs[name].get(level, 0) for name, level in self.levels.items())

    def undo(self):
        self.undone += 1


FRAGILE = {TERNARY: 9, TWO_BITS: 9, FOUR_BITS: 9}


def test_what_holds_is_ternary_after_one_try():
    bench = Bench({name: {TERNARY: 0.1} for name in "abcd"})
    assert bench.run([["a", "b"], ["c", "d"]]) == dict.fromkeys("abcd", TERNARY)
    assert bench.undone == 0
    assert [attempt.kept for attempt in bench.tried] == [True, True]


def test_a_fragile_layer_climbs_every_rung_and_the_others_stay():
    bench = Bench({"a": {}, "b": {}, "c": FRAGILE})
    levels = bench.run([["a"], ["b", "c"]])
    assert levels["a"] == TERNARY
    assert levels["c"] == 0
    seen = [attempt.levels["c"] for attempt in bench.tried if "c" in attempt.levels]
    assert [level for index, level in enumerate(seen) if level not in seen[:index]] == [TERNARY, TWO_BITS, FOUR_BITS, 0]
    assert bench.undone == len([attempt for attempt in bench.tried if not attempt.kept])


def test_two_bits_are_enough_for_some():
    levels = Bench({"a": {}, "b": {TERNARY: 9}}).run([["a", "b"]])
    assert levels == {"a": TERNARY, "b": TWO_BITS}


def test_attempts_are_bounded():
    bench = Bench(dict.fromkeys("abcdefgh", FRAGILE))
    assert set(bench.run([list("abcdefgh")], max_attempts=3).values()) == {0}
    assert len(bench.tried) == 3


@given(st.lists(st.sampled_from([0.0, 0.2, 9.0]), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 20))
def test_a_resumed_run_decides_alike(costs, width, killed_at):
    names = [f"layer{index}" for index in range(len(costs))]
    table = {name: {TERNARY: cost, TWO_BITS: cost / 2} for name, cost in zip(names, costs, strict=True)}
    stages = [names[start : start + width] for start in range(0, len(names), width)]
    whole = Bench(table)
    expected = whole.run(stages)
    progress = (whole.kept or [Progress()])[min(killed_at, len(whole.kept) - 1)]
    resumed = Bench(table)
    resumed.levels = {
        name: level for stage in stages[: progress.stage] for name, level in expected.items() if name in stage
    }
    assert resumed.run(stages, progress) == expected


def test_rungs_by_hand():
    names = ["a", "b", "c"]
    once = raise_levels(names, dict.fromkeys(names, TERNARY))
    assert once == {"a": TERNARY, "b": TWO_BITS, "c": TWO_BITS}
    assert raise_levels(names, once) == {"a": TWO_BITS, "b": TWO_BITS, "c": TWO_BITS}
    assert raise_levels(names, dict.fromkeys(names, FOUR_BITS)) == {"a": FOUR_BITS, "b": 0, "c": 0}


def test_refuses_a_bound_that_nothing_can_meet():
    with pytest.raises(ValueError, match="bound"):
        Bench({}).run([], bound=1.0)
    with pytest.raises(ValueError, match="max_attempts"):
        Bench({}).run([], max_attempts=1)
