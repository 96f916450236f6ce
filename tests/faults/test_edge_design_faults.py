"""Failures of phase 7's search for a design, injected."""

import pytest
import torch
from tests.agent.dialogues import RECORDS, taught

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.config import build_config
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.phases.edge.architecture_search import search_design
from agent_forge.phases.edge.design_course import Designed
from agent_forge.phases.edge.design_ledger import Questions
from agent_forge.phases.edge.design_losses import Asked, Losses
from agent_forge.phases.edge.design_questions import Problem
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.pipeline.gates import evaluate

SUMS = [Problem(f"Add {a} and {b}.", str(a + b), "sum", 2) for a in range(2, 6) for b in range(1, 4)]
ASKED = SUMS + [Problem(f"Add 9 and {b}.", "no such answer", "sum", 2) for b in range(1, 5)]
TIMES = [Problem(f"Times {a} {b}.", str(a * b), "calculator", 1, calls=True) for a in range(2, 5) for b in range(2, 4)]


@pytest.fixture(scope="module")
def agent():
    """Errs at every second sum where it looks for a tool, and not where it thinks; multiplies by its calculator."""
    documents = []
    for number, problem in enumerate(SUMS):
        wrong = str(int(problem.core) + number % 2)
        documents += [Document.chat([("user", problem.ask), ("assistant", wrong)])] * 3
        thought = f"{problem.ask[4]} + {problem.ask[10]} = {problem.core}"
        documents.append(Document.chat([("user", problem.ask), ("thought", thought), ("assistant", problem.core)]))
    for problem in TIMES:
        call = f"calculator({problem.ask[6]} * {problem.ask[8]})"
        turns = [("user", problem.ask), ("assistant", call), ("user", f"result: {problem.core}")]
        turns.append(("assistant", problem.core))
        documents += [Document.chat(turns)] * 2
    tokenizer = train_tokenizer([document.text for document in documents] * 4, 300)
    add_thoughts(tokenizer)
    return taught(tokenizer, documents, 150), tokenizer, world_toolbox(Knowledge(RECORDS))


@pytest.fixture(scope="module")
def bench(agent):
    return Bench(*agent, max_tokens=24)


def asked(bench, problems, times):
    """The same questions again and again stand for as many different ones: this agent knows no others."""
    return lambda split: [Asked("tools", bench.toolbox, problem) for problem in problems] * times


def test_edge_6_a_search_whose_best_design_never_calls_tools_does_not_ship_it(bench, tmp_path):
    space = DesignSpace.of(bench.tokenizer, bench.toolbox, max_samples=2, thought_budgets=(16,))
    questions = Questions(ASKED, (), ASKED)
    options = {"evaluations": 10, "population": 6, "screen": 6, "seed": 1, "controls": ()}
    free = search_design(bench, questions, space, **options)
    habit = bench.measure(space.habit, TIMES)
    assert habit.accuracy >= 0.8
    assert bench.measure(free.design, TIMES).accuracy < 0.5, free.design  # the injected fault: the best costs tools
    losses = Losses(bench, space.habit, asked(bench, TIMES, 40), 0.02)
    found = search_design(bench, questions, space, refused=losses.refused, **options)
    assert found.design != free.design
    assert bench.measure(found.design, TIMES).accuracy == habit.accuracy
    refused = {AgentDesign.from_json(row["design"]): row["reason"] for row in found.page["refused"]}
    assert "of the first" in refused[free.design]
    # what such a design would have cost blocks a run
    gates = [g for g in build_config("base25m").gates["edge"] if g.metric == "edge/design/sure_points_lost"]
    for design, blocks in ((free.design, True), (found.design, False), (space.habit, False)):
        measured = {f"edge/design/{name}": value for name, value in losses.figures(design).items()}
        assert [result.blocks for result in evaluate("edge", gates, measured)] == [blocks]
    found = Designed(found.design, None, {}, {})
    found.save(tmp_path)
    assert AgentDesign.load(tmp_path) == found.design


def test_edge_6_too_few_questions_or_none_show_nothing(bench):
    thinks = AgentDesign(think="off")
    few = Losses(bench, AgentDesign(), asked(bench, TIMES, 2), 0.02).refused(thinks)
    assert "cannot show a loss below 2 points" in few
    assert "no questions" in Losses(bench, AgentDesign(), lambda split: [], 0.02).refused(thinks)
    assert Losses(bench, AgentDesign(), lambda split: [], 0.02).figures(AgentDesign()) == {
        "points_lost": 0.0,
        "sure_points_lost": 0.0,
    }


def test_edge_6_what_one_ability_loses_is_not_made_up_for_by_another(bench):
    """Sums that are gained by a thought do not pay for tools."""

    def both(split):
        return [Asked("sums", bench.toolbox, each) for each in SUMS * 20] + [
            Asked("tools", bench.toolbox, each) for each in TIMES[:1] * 4
        ]

    losses = Losses(bench, AgentDesign(thought_budget=16), both, 0.02)
    assert losses.refused(AgentDesign(think="on", tools="never", thought_budget=16)).startswith("tools: 100.0 points")


def test_edge_7_without_head_room_the_habit_stays_and_nothing_is_written(bench, tmp_path):
    never = [Problem(problem.ask, "no such answer", "sum", 2) for problem in SUMS]
    space = DesignSpace.of(bench.tokenizer, bench.toolbox, max_samples=2, thought_budgets=(16,))
    found = search_design(bench, Questions(never, (), never), space, evaluations=10)
    assert (found.design, found.page["chosen"]) == (space.habit, "habit")
    assert "no head-room" in found.page["skipped"]
    Designed(None, page=found.page).save(tmp_path)
    assert not list(tmp_path.iterdir())


class Mute(torch.nn.Module):
    """Ends every turn at once."""

    def __init__(self, inner, end):
        super().__init__()
        self.inner, self.config, self.end = inner, inner.config, end

    def get_input_embeddings(self):
        return self.inner.get_input_embeddings()

    @property
    def device(self):
        return self.inner.device

    def forward(self, input_ids=None, position_ids=None, **options):
        found = self.inner(input_ids=input_ids, position_ids=position_ids, **options)
        found.logits[..., self.end] = 1e4
        return found


def test_edge_8_failed_and_blank_designs_are_charged_and_not_chosen(agent):
    """Windows that a Llama does not have, and a model that says nothing."""
    bench = Bench(*agent, max_tokens=24)
    failed = bench.screened(AgentDesign(window=4), ASKED, 6, 0.0)
    assert "sets sliding_window, and this model" in failed.failed
    assert (failed.accuracy, failed.mean_tokens) == (0.0, 0.0)
    space = DesignSpace.of(*agent[1:], max_samples=2, thought_budgets=(16,), windows=(None, 4, 5, 6, 7))
    found = search_design(
        bench, Questions(ASKED, (), ASKED), space, evaluations=14, population=8, screen=6, seed=1, controls=()
    )
    assert found.measured["failed_evaluations"] > 0
    assert found.measured["evaluations"] == 14
    assert found.design.window is None
    assert all(row["design"]["window"] is None for row in found.front)
    blank = Bench(Mute(agent[0], agent[1].eos_token_id), *agent[1:], max_tokens=4).measure(AgentDesign(), ASKED)
    assert (blank.blank, blank.accuracy) == (len(ASKED), 0.0)
