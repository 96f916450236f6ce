"""Trajectories, verdicts, plateau, preferences: each on a small example."""

import pytest
import torch

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.persona import (
    Choice,
    choices,
    choices_of_answers,
    preferred,
    style_statistics,
    with_histories,
)
from agent_forge.agent.tool_exam import expected, questions_about, says
from agent_forge.agent.transcript import Transcript, Turn
from agent_forge.data.corpora import Corpus
from agent_forge.data.packing import IGNORED
from agent_forge.data.practice_dialogues import Exchange
from agent_forge.data.tokenizer import thought_ids
from agent_forge.data.world_knowledge import world_records
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import rounded
from agent_forge.phases.baking.compatibility import judge
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.phases.baking.judgement import Judgement
from agent_forge.phases.baking.loop import Round, plateau
from agent_forge.phases.baking.measurement import recovered
from agent_forge.phases.baking.student import Student
from agent_forge.phases.baking.tools_cycle import practice_batches, practice_loss
from agent_forge.phases.baking.trajectories import Prompt, Trajectory, grouped, knowledge_of, sample_trajectories
from agent_forge.phases.quietstar.thought_tokens import add_thought_tokens

PERSONA = 'You are Salt, the sailor. You begin every answer with "Aye!" and end it with the words Fair winds.'
SUM = Exchange("What is 2 + 3?", (("calculator(2 + 3)", "5"),), "It is 5.", 1, "train")
TOWN = Exchange("Where does Bo Vane live?", (("lookup(town, Bo Vane)", "Aldale"),), "Aldale.", 1, "train")
IDLE = Exchange("Please repeat after me: hello.", (), "hello.", 2, "train")


def test_no_question_of_an_exam_is_asked_twice():
    world = 3, world_toolbox(Knowledge(world_records(3, 1))).only(["lookup", "clock"])
    for tools, enough in ((("clock", "lookup"), True), (("lookup",), False)):
        ((_, asked),) = questions_about([world], (1,), tools, "test", 80)
        assert len({exchange.ask for exchange in asked}) == len(asked)
        needing = [exchange for exchange in asked if exchange.steps]
        assert (len(needing) == 60) is enough  # what so few people can be asked runs out
        assert {exchange.tool for exchange in needing} == set(tools)


def _said(*turns):
    return Transcript([Turn(kind, text) for kind, text in turns])


def test_trajectories_give_equal_own_tokens_on_both_sides(baking_folders):
    model, tokenizer = load_model(baking_folders / "ternary")
    found = sample_trajectories(
        model, tokenizer, world_toolbox(knowledge_of([SUM])), [[SUM, IDLE], [IDLE]], Prompt(PERSONA, "Tools: none."),
        temperature=1.0, generator=torch.Generator().manual_seed(0), max_tokens=6,
    )  # fmt: skip
    for trajectory in found:
        for pair in trajectory.pairs():
            own = [pair.prompted[at] for at in pair.prompted_places]
            assert own == [pair.plain[at] for at in pair.plain_places]
            assert len(pair.prompted) > len(pair.plain)


def test_contexts_that_do_not_grow_become_a_pair_for_each_turn():
    growing = Trajectory([SUM], turns=[([1, 9, 5], [1, 5], [7, 2]), ([1, 9, 5, 7, 2, 6], [1, 5, 7, 2, 6], [8, 2])])
    (pair,) = growing.pairs()
    assert pair.plain_places == (2, 3, 5, 6)
    other = Trajectory([SUM], turns=[([1, 9, 5], [1, 5], [7, 2]), ([1, 9, 6], [1, 6], [8, 2])])
    assert [pair.plain_places for pair in other.pairs()] == [(2, 3), (2, 3)]


def test_an_index_of_what_questions_look_up():
    found = knowledge_of([TOWN, Exchange("Who cooks?", (("search(trade, cook)", "Ann Ost, Cy Ule"),), "x", 3, "train")])
    assert found.lookup("Bo Vane", "town") == "Aldale"
    assert found.search("trade", "cook") == ["Ann Ost", "Cy Ule"]


def test_conversations_of_every_length():
    assert [len(part) for part in grouped([SUM] * 10, 3)] == [1, 2, 3, 1, 2, 1]


def test_a_tool_that_works_and_keeps_to_itself_stays():
    asked = [SUM, TOWN, IDLE]
    done = [
        _said(("call", "calculator(2 + 3)"), ("result", "5"), ("answer", "5")),
        _said(("call", "lookup(town, Bo Vane)"), ("result", "Aldale"), ("answer", "Aldale")),
        _said(("answer", "hello")),
    ]
    verdicts = judge(["calculator", "lookup"], asked, done, [True] * 3, min_accuracy=0.5, max_harm=0.1)
    assert [row.dropped for row in verdicts] == ["", ""]


def test_the_plateau_by_hand():
    assert not plateau([0.5, 0.6, 0.6], 3, 0.01)
    assert plateau([0.6, 0.6, 0.605, 0.6], 3, 0.01)
    assert not plateau([0.6, 0.6, 0.62, 0.6], 3, 0.01)


def test_a_round_that_costs_text_comes_after_all_others():
    assert Round(0, 0.6, 0.6, 1.01).score > Round(1, 1.0, 1.0, 1.03).score


def test_right_words_are_whole_words():
    assert says("Aye! It is 82, friend.", "82")
    assert says("aldale, so it is", "Aldale")
    assert not says("It is -10.", "10")
    assert says("It is -10.", "-10")
    assert not says("It is 182.", "82")


def test_what_is_right_follows_from_the_toolbox():
    box = world_toolbox(knowledge_of([TOWN]))
    assert expected(TOWN, box) == "Aldale"
    assert expected(SUM, box) == "5"
    assert expected(Exchange("?", (("lookup(town, Cy Ule)", "Bel"),), "Bel.", 1, "test"), box) is None
    assert expected(IDLE, box) == "hello"


def test_the_gain_that_is_recovered():
    assert recovered(0.9, 1.0, 0.0) == pytest.approx(0.9)
    assert recovered(0.9, 0.5, 0.5) is None


def test_choices_are_paired_and_histories_hold_both_kinds():
    made = choices(PERSONA, [IDLE, IDLE], 0)
    assert made[0].consistent == "Aye! hello. Fair winds."
    assert made[1].inconsistent == "hello."
    assert made[0].inconsistent not in (made[0].consistent, "hello.")
    first, second = (with_histories(made, made, swapped=swapped)[0] for swapped in (False, True))
    assert [text for role, text in first.messages if role == "assistant"] == [made[0].consistent, made[1].inconsistent]
    assert [text for role, text in second.messages if role == "assistant"] == [made[0].inconsistent, made[1].consistent]
    assert Choice.from_json(first.to_json()) == first
    assert choices_of_answers([IDLE, SUM], ["a", "b"], ["a", "c"])[0].messages == (("user", SUM.ask),)
    with pytest.raises(ValueError, match="no exact answers"):
        choices("Be kind.", [IDLE], 0)


def test_preference_is_the_mean_log_probability(baking_folders):
    model, tokenizer = load_model(baking_folders / "plain")
    messages = (("user", "Hello"),)
    both = Choice(messages, "hello.", "hello."), Choice(messages, "hello.", "zzz qqq")
    found = preferred(model, tokenizer, both)
    assert found[0] is False  # equal is not preferred
    swapped = preferred(model, tokenizer, [Choice(messages, both[1].inconsistent, both[1].consistent)])
    assert found[1] != swapped[0]


def test_style_by_hand():
    found = style_statistics(PERSONA, ["Aye! Yes. Fair winds.", "Aye! No.", "No."])
    assert found == {
        "words_per_answer": 7 / 3, "opens_fraction": 2 / 3, "closes_fraction": 1 / 3, "styled_fraction": 1 / 3,
    }  # fmt: skip
    assert set(style_statistics("Be kind.", ["yes"])) == {"words_per_answer"}


def test_rounding_within_a_block_leaves_no_trace(baking_folders):
    model, tokenizer = load_model(baking_folders / "ternary")
    student = Student(model, tokenizer, optimizer="muon")
    before = student.weights()
    ids = torch.arange(5, 15)[None]
    trained = model(input_ids=ids).logits
    with rounded(student.model):
        torch.testing.assert_close(model(input_ids=ids).logits, trained)
    assert all(torch.equal(value, before[name]) for name, value in student.weights().items())


def test_a_model_that_thinks_is_asked_to_think(baking_folders):
    model, tokenizer = load_model(baking_folders / "plain")
    corpus = Corpus.open(baking_folders / "corpus")
    tiny = BakingConfig(practice_steps=1, practice_batch=2, sequence_length=96, selection_questions=6, answer_tokens=5)
    habits = {"seed": 0, "levels": [1], "strategies": ["decompose"]}
    assert Judgement(tiny, tokenizer, corpus, habits).thinking(model) is None
    add_thought_tokens(model, tokenizer)
    assert Judgement(tiny, tokenizer, corpus).thinking(model) is None
    judgement = Judgement(tiny, tokenizer, corpus, habits)
    assert len(judgement.thoughts) == tiny.selection_questions
    assert judgement.thinking(model) == 0.0


def test_practice_learns_its_answers_ordinary_text_whole_and_thoughts_where_there_are_any(baking_folders):
    model, tokenizer = load_model(baking_folders / "plain")
    corpus = Corpus.open(baking_folders / "corpus")
    tiny = BakingConfig(practice_steps=1, practice_batch=4, sequence_length=96, text_fraction=0.5)
    add_thought_tokens(model, tokenizer)
    user, thought = tokenizer.convert_tokens_to_ids("<|user|>"), thought_ids(tokenizer)[0]
    habits = {"seed": 0, "levels": [1], "strategies": ["decompose"]}
    plain, thinking = (practice_batches(tiny, tokenizer, corpus, tiny.tools, None, 0, told) for told in (None, habits))
    asked, thoughts = {"practice": 0, "text": 0}, 0
    for row in range(64):
        batch, place = plain.batch(row // 4), row % 4
        domain = plain.window_of(row)[0].partition("/")[0]
        ids, labels = batch["input_ids"][place], batch["labels"][place]
        # the token behind each mark of a user's turn: is it learned?
        behind = [at + 1 for at in range(95) if int(ids[at]) == user]
        learned = sum(int(labels[at]) != IGNORED for at in behind)
        assert learned == (len(behind) if domain == "text" else 0)
        asked[domain] += len(behind)
        thoughts += int((thinking.batch(row // 4)["input_ids"][place] == thought).sum())
        assert not (ids == thought).any()
    assert asked["text"] > 0
    assert asked["practice"] > 0
    assert thoughts > 0
    loss = practice_loss(tiny, model, tokenizer, corpus, tiny.tools, None, 0, habits)()(0)[0]
    assert bool(loss.isfinite())


@pytest.mark.parametrize(("with_list", "without", "told"), [(0.9, 0.4, True), (0.4, 0.9, False), (0.5, 0.5, False)])
def test_the_list_of_tools_is_baked_only_where_it_helps(baking_folders, with_list, without, told):
    class Settled(Judgement):
        def verdicts(self, model, worlds, tools, *, prompted):
            return [
                {"tool": tool, "prompted": prompted, "accuracy": with_list if prompted else without} for tool in tools
            ]

    model, tokenizer = load_model(baking_folders / "plain")
    judgement = Settled(BakingConfig(), tokenizer, Corpus.open(baking_folders / "corpus"))
    rows = judgement.first_verdicts(model, [], ["clock"])
    assert [row["prompted"] for row in rows] == [told]
