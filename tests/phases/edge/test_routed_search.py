"""Routes that are searched: two kinds of question that want opposite things of one agent."""

import pytest
from tests.agent.dialogues import RECORDS, taught

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, fit_dispatcher, question_features
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.routes import first_pass, open_first_pass
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.phases.edge.architecture_search import search_design
from agent_forge.phases.edge.config import DesignConfig
from agent_forge.phases.edge.course import Course
from agent_forge.phases.edge.design_course import routes, search_among
from agent_forge.phases.edge.design_ledger import Questions
from agent_forge.phases.edge.design_questions import Problem
from agent_forge.phases.edge.design_space import DesignSpace
from agent_forge.phases.edge.design_trial import Bench
from agent_forge.pipeline.memory_context import MemoryContext

JOINS = [Problem(f"Join {a} to {b}.", str(a + b + 1), "join", 2) for a in range(2, 6) for b in range(1, 4)]
SUMS = [Problem(f"Add {a} and {b}.", str(a + b), "sum", 2) for a in range(2, 6) for b in range(1, 4)]
BOTH = [problem for pair in zip(SUMS, JOINS, strict=True) for problem in pair]
SIDES = ("random", "random_by_kind", "recombined", "composed")
HARD = [Problem(f"Join {a} to 9.", "no such answer", "join", 2) for a in range(2, 6)]


@pytest.fixture(scope="module")
def divided():
    """An agent that a calculator helps with sums, where it errs, and harms with joins, where it counts one too many."""
    documents = []
    for number, problem in enumerate(SUMS):
        for wrong in (0, 1, 1, 2, 2) if number % 2 else (0, 0):  # so that the answer must be read off the thought
            result = int(problem.core) + wrong
            worked = f"{problem.ask[4]} + {problem.ask[10]} = {result}"
            documents.append(Document.chat([("user", problem.ask), ("thought", worked), ("assistant", str(result))]))
    for problem in JOINS:
        worked = f"{problem.ask[5]} + {problem.ask[10]} = {problem.core}"
        documents += [Document.chat([("user", problem.ask), ("thought", worked), ("assistant", problem.core)])] * 2
    tokenizer = train_tokenizer([document.text for document in documents] * 4, 300)
    add_thoughts(tokenizer)
    model = taught(tokenizer, documents, 150)
    return model, tokenizer, world_toolbox(Knowledge(RECORDS))


def routed_bench(divided):
    """With a first pass of its own: it knows these questions by heart, as it knows their answers."""
    model, tokenizer, _ = divided
    asked = {
        BASE: ["What is this?", "Say it again.", "Who are you?"],
        "sum 2": [problem.ask for problem in SUMS],
        "join 2": [problem.ask for problem in (*JOINS, *HARD)],
    }
    made = fit_dispatcher({name: question_features(model, tokenizer, each) for name, each in asked.items()})
    return Bench(*divided, max_tokens=6, first_pass=first_pass(model, tokenizer, made))


def routed_search(divided, **options):
    space = DesignSpace.of(*divided[1:], max_samples=3, thought_budgets=(8, 16)).routed(
        {"sum 2": "thought", "join 2": "neither"}
    )
    settings = {"evaluations": 16, "population": 10, "screen": 6, "seed": 3, "controls": ("random", "recombined")}
    return search_design(
        routed_bench(divided), Questions(BOTH + HARD, BOTH[:8], BOTH + HARD), space, **settings | options
    )


@pytest.fixture(scope="module")
def routed(divided):
    states = []
    found = routed_search(divided, save=lambda state, step: states.append((step, dict(state))),
                          controls=SIDES)  # fmt: skip
    return states, found


def test_no_row_is_right_for_both_kinds_and_routes_are(divided, routed):
    _, found = routed
    assert found.design.route("sum 2") != found.design.route("join 2")
    assert found.page["by_kind"]["sum 2"]["searched"] > found.page["by_kind"]["sum 2"]["best_by_hand"]
    assert found.design.route("never seen") == AgentDesign(thought_budget=16)
    assert found.measured["over_hand_written"] > 0.05
    assert found.measured["routes"] >= 1
    again = routed_bench(divided).measure(found.design, BOTH + HARD)
    assert again.accuracy == found.measured["test_accuracy"]


def test_all_sides_had_equally_many_evaluations(routed):
    _, found = routed
    assert found.measured["evaluations"] <= 16
    assert found.measured["control_evaluations"] == 16
    assert {"searched", "hand_written", "habit", *SIDES} == set(found.trials)
    for name in SIDES:
        gap = found.measured["test_accuracy"] - found.measured[f"{name}_test_accuracy"]
        assert found.measured[f"over_{name}"] == pytest.approx(gap)
        AgentDesign.from_json(found.page[name])
    assert "routed" in found.page["test"]


@pytest.mark.parametrize("killed", [9, 20])
def test_a_killed_search_of_routes_goes_on_where_it_was(divided, routed, killed):
    states, whole = routed
    last = next(dict(state) for step, state in states if step == killed)
    fresh = []
    found = routed_search(divided, restored=last, controls=SIDES,
                          save=lambda state, step: fresh.append(step))  # fmt: skip
    assert (found.design, found.measured, found.page) == (whole.design, whole.measured, whole.page)
    assert fresh == list(range(killed + 1, states[-1][0] + 1))


def test_routes_keep_a_bound_on_tokens_and_need_a_first_pass(divided):
    found = routed_search(divided, max_mean_tokens=12, controls=())
    assert found.measured["test_tokens"] <= 12.5
    with pytest.raises(ValueError, match="fewer than the 10"):
        routed_search(divided, evaluations=9)
    space = DesignSpace.of(*divided[1:], max_samples=3, thought_budgets=(8, 16)).routed({"sum 2": "thought"})
    with pytest.raises(ValueError, match="tells kinds of question apart"):
        search_design(Bench(*divided), Questions(BOTH, (), BOTH), space, evaluations=20)


def no_exam(split, count):
    """No questions about tools: this agent knows nothing of them."""
    return []


def families():
    """The two kinds, the same questions in every split: the agent knows no others."""
    joins = [problem for n in range(4) for problem in (*JOINS[3 * n : 3 * n + 3], HARD[n])]
    return {"sum 2": lambda split: iter(SUMS), "join 2": lambda split: iter(joins)}


def test_the_phase_chooses_routes_and_writes_them(divided, edge_folders, tmp_path):
    model, tokenizer, toolbox = divided
    corpus = Corpus.open(edge_folders / "corpus")
    config = DesignConfig(
        evaluations=12,
        population=8,
        probe_questions=12,
        questions=24,
        further_questions=4,
        test_questions=24,
        max_samples=3,
        answer_tokens=6,
        other_questions=24,
        max_points=0.5,
    )
    space = DesignSpace.of(tokenizer, toolbox, max_samples=3, thought_budgets=(8, 16))
    course = Course(MemoryContext(tmp_path / "whole", seed=1))
    found = search_among(config, course, Bench(*divided, max_tokens=6), space, families(), corpus, no_exam)
    assert found.page["kinds"] == "sum 2, join 2"
    assert found.measured["kind_accuracy"] == 1.0
    assert found.measured["points_lost"] <= 50
    assert "over_random_by_kind" in found.measured
    assert found.measured["routes"] >= 1
    found.save(tmp_path)
    assert AgentDesign.load(tmp_path) == found.design
    recognise = open_first_pass(tmp_path, model, tokenizer, found.design)
    assert recognise([SUMS[0].ask, JOINS[0].ask]) == ["sum 2", "join 2"]
    plain = DesignConfig(**config.model_dump() | {"routes": False, "evaluations": 8})
    course = Course(MemoryContext(tmp_path / "plain", seed=1))
    without = search_among(plain, course, Bench(*divided, max_tokens=6), space, families(), corpus, no_exam)
    assert (without.design.routes, without.page["kinds"]) == ((), "the configuration asks for no routes")
    assert "kind_accuracy" not in without.measured
    (tmp_path / "routes.safetensors").unlink()
    without.save(tmp_path)
    assert not (tmp_path / "routes.safetensors").exists()


def test_too_few_families_or_questions_mean_no_routes(divided, edge_folders):
    corpus, made = Corpus.open(edge_folders / "corpus"), Bench(*divided, max_tokens=6)
    for kept, questions in ((["sum 2"], 100), (["sum 2", "join 2"], 15)):
        kinds, said = routes(DesignConfig(), made, families(), kept, questions, corpus)
        assert kinds is None
        assert said.startswith(f"no routes: {questions} questions of {len(kept)} families")
    same = {name: lambda split: iter(SUMS) for name in ("sum 2", "sum 3")}
    kinds, said = routes(DesignConfig(), made, same, list(same), 100, corpus)
    assert (kinds, "cannot be told apart" in said) == (None, True)
