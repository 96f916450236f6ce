"""What rows are worth by kind, kinds that can be told apart, and designs made of the best rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE
from agent_forge.phases.edge.design_questions import Problem
from agent_forge.phases.edge.design_rows import Rows
from agent_forge.phases.edge.design_space import DesignSpace, hand_written
from agent_forge.phases.edge.design_trial import Trial
from agent_forge.phases.edge.question_kinds import joined, tell_apart

GENES = {
    "think": ("auto", "on", "off"), "tools": ("first", "never"), "samples": (1, 3), "temperature": (0.5, 1.0),
    "greedy_first": (True, False), "calculated": ("no", "yes"), "enough": (0.0, 1.0), "thought_budget": (8, 16),
    "max_calls": (1, 8), "recursion_steps": (None,), "window": (None,), "experts": ((), (("thoughts/row", 1.0),)),
    "pruning": ("",), "check fresh": ("", "reject"),
}  # fmt: skip
SPACE = DesignSpace(GENES).routed(
    {"sum 3": "thought", "row 4": "thought", "calculator 5": "call", "no tool 2": "neither"}
)
TWO = DesignSpace(GENES).routed({"sum": "thought", "row": "thought"})
HABIT, OFF = TWO.habit, AgentDesign(think="off", thought_budget=16).canonical()
CALCULATED = AgentDesign(calculated="yes", thought_budget=16)


def trial(right, tokens=None):
    return Trial(tuple(bool(int(each)) for each in right), tuple(tokens or [10] * len(right)))


def test_rows_by_hand():
    """Two sums, two rows; one design is right on the sums, the other on the rows."""
    rows = Rows(TWO, ["sum", "row", "sum", "row", BASE])
    rows.add(CALCULATED, trial("10101"))
    rows.add(HABIT, trial("01010"))
    best = rows.composed()
    assert best == AgentDesign(thought_budget=16, routes={"sum": CALCULATED})  # the habit is the outer row
    assert rows.composed(1) == rows.composed(7)  # the worst of each; there are only two
    assert rows.composed(1).route("sum") == HABIT
    rows.add(OFF, trial("11"))  # screened: two answers of five
    rows.add(AgentDesign(think="on"), Trial((), (), failed="RuntimeError: no"))
    assert rows.composed() == best
    genes = dict(zip(("off", "on"), (TWO.genotype(OFF)[:14], TWO.genotype(AgentDesign(think="on"))[:14]), strict=True))
    assert rows.was_tried(1, genes["off"])
    assert not rows.was_tried(1, genes["on"])  # what failed in one design may do in another


def test_a_row_is_taken_where_it_answers_more_or_as_much_for_less():
    kinds = ["sum"] * 20 + ["row"] * 20
    rows, later = Rows(TWO, kinds), Rows(TWO, ["row", "sum"])
    rows.add(HABIT, trial("1" * 10 + "0" * 10 + "1" * 10 + "0" * 10))
    rows.add(CALCULATED, trial("1" * 18 + "00" + "0" + "1" * 10 + "0" * 9))  # +8 sums; as many rows
    assert rows.settled(HABIT, [CALCULATED], later, {}).routes == (("sum", CALCULATED),)
    rows.add(OFF, trial("1" * 10 + "0" * 10 + "0" + "1" * 11 + "0" * 8))  # two rows won, one lost
    assert rows.settled(HABIT, [rows.composed()], later, {}).route("row") == OFF
    lost = {HABIT: trial("11"), rows.composed(): trial("00")}  # ... but further questions lost
    assert rows.settled(HABIT, [rows.composed()], later, lost).route("row") == HABIT
    cheap = AgentDesign(tools="never", thought_budget=16).canonical()
    rows.add(cheap, trial("0" * 20 + "1" * 10 + "0" * 10, [5] * 40))  # as good on rows, for half the tokens
    assert rows.settled(HABIT, [cheap, CALCULATED], later, {}).route("row") == cheap
    # on further questions the cheap row fails: no longer as good
    more = {HABIT: trial("11"), cheap: trial("01", [5, 5]), CALCULATED: trial("11")}
    assert rows.settled(HABIT, [cheap, CALCULATED], later, more).route("row") == HABIT


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_what_is_composed_is_as_good_as_its_parts_together(seed, designs):
    """Whatever rows there are: the composed design is at least as often right as any that was tried."""
    generator = np.random.default_rng(seed)
    kinds = list(generator.choice(["sum", "row"], 12))
    table = {}

    def answers(design):
        return "".join(
            str(table.setdefault((design.route(kind).canonical(), n), int(generator.integers(2))))
            for n, kind in enumerate(kinds)
        )

    rows = Rows(TWO, kinds)
    tried = {design: answers(design) for design in (TWO.design(TWO.random(generator)) for _ in range(designs))}
    for design, right in tried.items():
        rows.add(design, trial(right))
    best = answers(rows.composed()).count("1")
    assert best >= max(right.count("1") for right in tried.values())
    assert best == sum(
        max(sum(int(right[n]) for n, kind in enumerate(kinds) if kind == name) for right in tried.values())
        for name in ("sum", "row")
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_genotypes_of_routes_are_designs_and_back(seed):
    design = SPACE.design(SPACE.random(np.random.default_rng(seed)))
    assert SPACE.design(SPACE.genotype(design)) == design
    assert set(dict(design.routes)) <= set(SPACE.kinds)
    assert len(SPACE.genotype(design)) == len(SPACE.sizes) == 4 * len(GENES)


def test_the_eighth_design_by_hand_is_what_an_engineer_would_guess():
    made = hand_written(SPACE)
    assert list(made)[-1] == "routed"
    assert len(made) == 8
    routed = made["routed"]
    assert routed.route("sum 3") == made["calculated thought"]
    assert routed.route("row 4") == AgentDesign(calculated="yes", thought_budget=16, experts={"thoughts/row": 1.0})
    assert routed.route("calculator 5") == made["verified"]
    assert routed.route("no tool 2") == made["direct"]
    assert routed.route("never seen") == made["habit"]
    for design in made.values():
        assert SPACE.design(SPACE.genotype(design)) == design


def cloud(centre, count=40):
    return torch.tensor(centre) + 0.1 * torch.randn(count, 2, generator=torch.Generator().manual_seed(1))


def test_families_that_look_the_same_are_one_kind():
    rows = {
        "sum 3": cloud([0.0, 0.0]), "sum 4": cloud([1.0, 0.0]), "sum 5": cloud([2.0, 0.0]),
        "plain 2": cloud([0.0, 3.0]), "plain 4": cloud([0.0, 3.0]), "plain 5": cloud([0.0, 3.0]),
        "other 5": cloud([0.0, 3.0]),
    }  # fmt: skip
    found = joined(rows, cloud([5.0, 5.0]), {name: name.split()[0] for name in rows})
    assert {name: found[name] for name in ("sum 3", "sum 4", "sum 5")} == {n: n for n in ("sum 3", "sum 4", "sum 5")}
    assert {found[f"plain {level}"] for level in (2, 4, 5)} == {"plain 2, 4, 5"}
    assert found["other 5"] == "other 5"  # another kind, however alike


def told(name, level, calls, count=20):
    return lambda split: iter(Problem(f"{split} {name} {level} {n}", "x", name, level, calls) for n in range(count))


def test_kinds_are_told_apart_from_the_training_split_alone():
    families = {"sum 3": told("sum", 3, None), "clock 2": told("clock", 2, True), "rare 1": told("rare", 1, False, 3)}
    asked = []

    def features(questions):
        asked.extend(questions)
        at = {"sum": [0.0, 0.0], "clock": [1.0, 0.0], "what": [0.0, 1.0]}
        return torch.tensor([at[text.split()[1]] for text in questions]) + 0.01 * torch.randn(len(questions), 2)

    kinds = tell_apart(families, ["clock 2", "rare 1"], ["train what 1 0", "train what 1 1"], features, questions=12)
    assert kinds.natures == {"clock 2": "call"}  # of "rare 1" there are too few, "sum 3" has no head-room
    assert set(kinds.dispatcher.classes) == {BASE, "sum 3", "clock 2"}
    assert all(text.startswith("train") for text in asked)
    problems = [Problem("a", "x", "sum", 3), Problem("b", "x", "clock", 2), Problem("c", "x", "rare", 1)]
    assert kinds.accuracy(problems, ["sum 3", BASE, BASE]) == pytest.approx(1 / 3)
    for nothing in ({}, {"rare 1": families["rare 1"]}):
        with pytest.raises(ValueError, match="cannot be told apart"):
            tell_apart(nothing, [], ["train what 1 0"], features)
    with pytest.raises(ValueError, match="cannot be told apart"):
        tell_apart(families, [], [], features)
