"""The search of a design: against hand-made problems, a reference, a control, and everything that can go wrong."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.agent.dialogues import RECORDS, taught

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.transcript import Transcript, Turn
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.errors import Interrupted
from agent_forge.phases.edge.architecture_search import search_design
from agent_forge.phases.edge.design_ledger import Questions
from agent_forge.phases.edge.design_questions import Problem, draw, mixed, sources, with_head_room
from agent_forge.phases.edge.design_space import DesignSpace, hand_written
from agent_forge.phases.edge.design_trial import Bench, Trial
from agent_forge.phases.edge.nsga2 import generations, non_dominated


def test_nsga2_finds_the_front_of_a_problem_by_hand():
    """Few ones are cheap, many are good, and which one it is of nine values counts."""
    sizes = np.full(10, 9)
    seen = {}

    def objectives(genotype):
        ones = int((genotype == 1).sum())
        seen[tuple(genotype)] = (10.0 - ones, float(ones) + 0.1 * int((genotype > 1).sum()))
        return seen[tuple(genotype)]

    starts = [np.zeros(10, int)]
    for number in generations(sizes, starts, objectives, population=20, seed=1):
        if number == 60:
            break
    best = {values for values in seen.values() if values[1] == 10 - values[0]}
    assert len(best) >= 10  # of the 11 counts of ones
    drawn = np.random.default_rng(1).integers(0, 9, size=(len(seen), 10))
    assert (drawn == 1).sum(1).max() < 10  # as many random ones do not reach the end of the front


def test_equal_seeds_give_equal_generations():
    def run(seed):
        asked = []
        steps = generations(np.full(4, 3), [], lambda g: asked.append(tuple(g)) or [g.sum()], population=6, seed=seed)
        for _ in range(4):
            next(steps)
        return asked

    assert run(1) == run(1) != run(2)
    with pytest.raises(ValueError, match="population of 3"):
        next(generations(np.full(4, 3), [], sum, population=3, seed=0))
    with pytest.raises(ValueError, match="range"):
        next(generations(np.full(4, 3), [np.array([0, 0, 0, 3])], sum, population=6, seed=0))


def test_blocks_are_exchanged_whole_and_never_tried_twice():
    """Two blocks of three genes: what was best of each is given, and no block is asked that was asked before."""
    asked, seen = [], (set(), set())

    def objectives(genotype):
        asked.append(tuple(genotype))
        for block in (0, 1):
            seen[block].add(tuple(genotype[3 * block : 3 * block + 3]))
        return (float(genotype.sum()),)

    def given():
        return np.array([min(seen[0], key=sum), min(seen[1], key=sum)]).ravel()

    starts = [np.array([4, 4, 4, 0, 0, 0]), np.array([0, 0, 0, 4, 4, 4])]
    steps = generations(
        np.full(6, 5), starts, objectives, population=4, offspring=2, blocks=2, seed=0, given=given,
        was_tried=lambda block, genes: tuple(genes) in seen[block],
    )  # fmt: skip
    next(steps)
    assert (0,) * 6 not in asked
    next(steps)
    assert (0,) * 6 in asked  # the two best blocks together
    for _ in range(6):
        next(steps)
    children = [each for each in asked[5:] if any(each)]  # the first of all is asked twice, to count the objectives
    for block in (slice(0, 3), slice(3, 6)):
        assert len({each[block] for each in children}) == len(children)
    for blocks in (0, 4):
        with pytest.raises(ValueError, match="equal blocks"):
            next(generations(np.full(6, 5), starts, objectives, population=4, seed=0, blocks=blocks))


@settings(max_examples=50, deadline=None)
@given(arrays(float, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=st.integers(0, 4).map(float)))
def test_the_front_is_that_of_pymoo(rows):
    from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

    assert non_dominated(rows) == sorted(NonDominatedSorting().do(rows, only_non_dominated_front=True).tolist())


ASKED = [f"Add {a} and {b}." for a in range(2, 6) for b in range(1, 4)]
PROBLEMS = [Problem(ask, str(int(ask[4]) + int(ask[10])), "sum", 1) for ask in ASKED]

HOPELESS = [Problem(f"Add 9 and {b}.", "no such answer", "sum", 1) for b in range(1, 5)]
MIXED = [problem for n in range(4) for problem in (*PROBLEMS[3 * n : 3 * n + 3], HOPELESS[n])]


@pytest.fixture(scope="module")
def agent():
    """Thinks "a + b = c", every second time with a wrong c, and says the c: a calculator helps it."""
    documents = []
    for number, problem in enumerate(PROBLEMS):
        for result in (int(problem.core), int(problem.core) + number % 2, int(problem.core) + number % 2):
            worked = f"{problem.ask[4]} + {problem.ask[10]} = {result}"
            documents.append(Document.chat([("user", problem.ask), ("thought", worked), ("assistant", str(result))]))
    tokenizer = train_tokenizer([document.text for document in documents] * 4, 300)
    add_thoughts(tokenizer)
    model = taught(tokenizer, documents, 140)
    return model, tokenizer, world_toolbox(Knowledge(RECORDS))


def bench(agent, **options):
    return Bench(*agent, max_tokens=6, **options)


def space_of(agent, **options):
    return DesignSpace.of(*agent[1:], max_samples=3, thought_budgets=(8, 16), **options)


@pytest.fixture(scope="module")
def searched(agent):
    questions = Questions(MIXED, MIXED[:4], MIXED)
    states = []
    found = search_design(
        bench(agent), questions, space_of(agent), evaluations=11, population=6, screen=6, seed=3,
        save=lambda state, step: states.append((step, dict(state))),
    )  # fmt: skip
    return questions, states, found


def test_the_verdict_adds_up(searched, agent):
    _, _, found = searched
    assert found.measured["searched"] == 1
    assert found.measured["evaluations"] == found.measured["control_evaluations"] == 11
    assert found.measured["over_hand_written"] == pytest.approx(
        found.measured["test_accuracy"] - found.measured["hand_written_test_accuracy"]
    )
    again = bench(agent).measure(found.design, MIXED)
    assert again.accuracy == found.measured["test_accuracy"]
    assert again.mean_tokens == found.measured["test_tokens"]
    assert found.page["design"] == found.design.to_json()
    assert {"searched", "hand_written", "habit", "random"} == set(found.trials)
    values = [(1 - row["accuracy"], row["tokens"]) for row in found.front]
    assert non_dominated(np.array(values)) == list(range(len(values)))
    assert [AgentDesign.from_json(row["design"]).to_json() for row in found.front] == [r["design"] for r in found.front]


def test_the_search_knows_what_helps(searched, agent):
    """Once it has the calculator, this agent is right: asked as it comes, it is not."""
    _, _, found = searched
    assert found.design.calculated != "no", found.page["test"]
    habit = bench(agent).measure(AgentDesign(thought_budget=16), MIXED)
    assert found.measured["test_accuracy"] > habit.accuracy


@pytest.mark.parametrize("killed", [3, 13])
def test_a_killed_search_goes_on_where_it_was(searched, agent, killed):
    questions, states, whole = searched
    options = {"evaluations": 11, "population": 6, "screen": 6, "seed": 3}
    last = {}

    def stop(state, step):
        last.update(state)
        if step == killed:
            raise Interrupted("killed")

    with pytest.raises(Interrupted):
        search_design(bench(agent), questions, space_of(agent), save=stop, **options)
    fresh = []
    found = search_design(
        bench(agent), questions, space_of(agent), restored=last, save=lambda state, step: fresh.append(step), **options
    )
    assert (found.design, found.measured, found.page) == (whole.design, whole.measured, whole.page)
    assert fresh == list(range(killed + 1, states[-1][0] + 1))  # nothing is measured twice


def test_without_head_room_nothing_is_searched(agent):
    never = [Problem(ask, "no such answer", "sum", 1) for ask in ASKED]
    found = search_design(bench(agent), Questions(never, (), never), space_of(agent), evaluations=40)
    assert found.measured == {"searched": 0.0, "head_room_accuracy": 0.0, "evaluations": found.measured["evaluations"]}
    assert "no head-room" in found.page["skipped"]
    assert found.design == space_of(agent).habit  # what was not asked the test split is not installed
    assert found.measured["evaluations"] <= 7


def test_what_cannot_be_carried_out_is_charged(agent):
    space = space_of(agent, windows=(None, 4))  # a Llama has no such window
    found = search_design(
        bench(agent), Questions(MIXED, (), MIXED), space, evaluations=14, population=6, screen=6, seed=1
    )
    assert found.measured["failed_evaluations"] > 0
    assert found.measured["evaluations"] == 14
    assert found.design.window is None
    assert all(row["design"]["window"] is None for row in found.front)


def test_blank_answers_are_counted_and_not_chosen(agent):
    class Mute(torch.nn.Module):
        """Says nothing at all."""

        def __init__(self, inner):
            super().__init__()
            self.inner, self.config = inner, inner.config

        @property
        def device(self):
            return self.inner.device

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, input_ids=None, position_ids=None, **options):
            found = self.inner(input_ids=input_ids, position_ids=position_ids, **options)
            found.logits[..., agent[1].eos_token_id] = 1e4
            return found

    trial = Bench(Mute(agent[0]), *agent[1:], max_tokens=4).measure(AgentDesign(), PROBLEMS)
    assert trial.blank == len(PROBLEMS)
    assert trial.accuracy == 0


def test_screening_asks_no_more_than_it_must(agent):
    never = [Problem(ask, "no such answer", "sum", 1) for ask in ASKED]
    assert len(bench(agent).screened(AgentDesign(), never, 9, 0.5).right) == 3
    late = [*PROBLEMS[:1], *never[1:]]
    found = bench(agent).screened(AgentDesign(), late, 9, 0.4)
    assert (len(found.right), found.screened) == (9, True)
    whole = bench(agent).screened(AgentDesign(), PROBLEMS, 9, 0.0)
    assert (len(whole.right), whole.screened) == (len(PROBLEMS), False)
    assert Trial.from_json(whole.to_json()) == whole


def test_options_of_the_caller_enter_the_genotype(agent):
    sizes = {"": 900.0, "half": 500.0}
    used = []

    class Equipped:
        def __init__(self, model, design):
            used.append((design.pruning, design.experts))
            self.model = model

        def __enter__(self):
            return self.model

        def __exit__(self, *error):
            return None

    space = space_of(agent, prunings=("", "half"), experts=({}, {"sums": 0.5}))
    found = search_design(
        bench(agent, equip=Equipped, size_of=lambda design: sizes[design.pruning]),
        Questions(MIXED, (), MIXED), space, evaluations=32, population=16, seed=5, controls=(),
    )  # fmt: skip
    assert {pruning for pruning, _ in used} == set(sizes)
    assert {experts for _, experts in used} == {(), (("sums", 0.5),)}
    assert {row["size_bytes"] for row in found.front} <= set(sizes.values())
    assert "over_random" not in found.measured


def test_a_bound_on_tokens_is_kept(agent):
    found = search_design(
        bench(agent), Questions(MIXED, (), MIXED), space_of(agent), evaluations=11, population=6,
        max_mean_tokens=14, controls=(), seed=3,
    )  # fmt: skip
    assert found.measured["test_tokens"] <= 14


def test_every_hand_written_design_lies_in_the_space(agent):
    space = space_of(agent)
    for design in hand_written(space).values():
        assert space.design(space.genotype(design)) == design
    assert len(hand_written(space)) == 7
    bare = DesignSpace.of(agent[1], None)
    assert {design.tools for design in hand_written(bare).values()} == {"never"}
    assert space.num_designs > 10**6
    with pytest.raises(ValueError, match="fewer than the 7"):
        search_design(bench(agent), Questions(MIXED, (), MIXED), space, evaluations=3)
    with pytest.raises(ValueError, match="needs questions"):
        search_design(bench(agent), Questions([], (), []), space, evaluations=9)


def test_questions_are_of_one_split_and_have_right_answers(agent):
    practice = {"seed": 1, "strategies": ["decompose", "view"], "levels": [3]}
    families = sources(practice, agent[2], world=3, seed=5, thought_levels=(3,), tool_levels=(2,))
    assert {"decompose 3", "view 3", "no tool 2", "calculator 2"} <= set(families)
    sides = {split: mixed(families, split, 30) for split in ("selection", "test")}
    assert not {p.ask for p in sides["selection"]} & {p.ask for p in sides["test"]}
    assert all(len({p.ask for p in side}) == len(side) for side in sides.values())
    assert len({problem.family for problem in sides["test"]}) > 3
    for problem in draw(families["calculator 2"], "test", 5):
        right = Transcript([Turn("call", "calculator(1)"), Turn("answer", f"Aye! It is {problem.core}.")])
        assert problem.is_right(right)
        assert not problem.is_right(Transcript(right.turns[1:]))
    assert sources(None, None, world=3) == {}


def test_head_room_keeps_what_is_neither_easy_nor_hopeless(agent):
    families = sources({"seed": 1, "strategies": ["decompose", "view", "doubt"]}, None, world=0, thought_levels=(2,))
    share = {"decompose": 1.0, "view": 0.5, "doubt": 0.0}
    numbers = dict.fromkeys(share, 0)

    def right(problems):
        for problem in problems:
            numbers[problem.kind] += 1
        return [numbers_even(problem, share) for problem in problems]

    def numbers_even(problem, share):
        return share[problem.kind] == 1 or (share[problem.kind] == 0.5 and len(problem.ask) % 2 == 0)

    kept, shares = with_head_room(families, right, 10)
    assert shares["decompose 2"] == 1
    assert set(kept) <= {"view 2"}
    assert numbers["decompose"] == 10
