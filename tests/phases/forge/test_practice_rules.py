"""Lineages and their streaks, the checker, own answers, questions and drills."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.documents import Document, Task
from agent_forge.data.filters import FilterSettings
from agent_forge.data.synthetic_world.arithmetic import problem
from agent_forge.data.synthetic_world.drills import KINDS, drill
from agent_forge.evaluation.tasks import normalised
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.forge.checker import equations_hold, verified
from agent_forge.phases.forge.examiner import question_json, question_of
from agent_forge.phases.forge.lineage import STREAK, Lineage, answered
from agent_forge.phases.forge.own_answers import own_answers
from agent_forge.phases.forge.questions import Question, Questions


def _question(name="q"):
    return Question(Task(name, "1", "drills/sum", 1), Document.chat((("user", name), ("assistant", "1"))), name)


def test_the_streak_goes_on_through_variants():
    line, question, names = Lineage(1, "drills/sum"), _question("a"), iter("bcdef")
    for right in (True, True):
        line, question = answered(line, question, right, lambda grown: _question(next(names)))
    assert (line.streak, line.variants, question.key) == (2, 3, "c")
    line, question = answered(line, question, False, lambda grown: _question(next(names)))
    assert (line.streak, line.wrong, question.key) == (0, 1, "c")
    for _ in range(3):
        line, question = answered(line, question, True, lambda grown: _question(next(names)))
    assert line.mastered


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=30))
def test_a_lineage_is_mastered_by_three_in_a_row_and_by_nothing_else(answers):
    line, question, run = Lineage(1, "k"), _question(), 0
    for right in answers:
        line, question = answered(line, question, right, lambda grown: _question(str(grown.variants)))
        run = run + 1 if right else 0
        assert line.streak == run
        assert line.mastered == (run >= STREAK)
        if line.mastered:
            break


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("3 + 4 = 7", True), ("3 + 4 = 8", False), ("2 + 3 * 4 = 14", True), ("2 + 3 * 4 = 20", False),
        ("9 / 3 = 3", True), ("9 / 2 = 4", False), ("1 / 0 = 0", False), ("5 - -2 = 7", True), ("-3 + 1 = -2", True),
        ("no sums here", True), ("Ann: 2 * 3 = 6, 6 + 1 = 7", True), ("Ann: 2 * 3 = 6, 6 + 1 = 8", False),
        ("40 * 25 / 100 = 10", True), ("x = 3; x?", True), ("9" * 40 + " + 1 = 3", False),
    ],
)  # fmt: skip
def test_equations(text, holds):
    assert equations_hold(text) is holds


@settings(deadline=None)
@given(st.integers(-999, 999), st.integers(-999, 999), st.integers(1, 99))
def test_equations_agree_with_python(a, b, c):
    assert equations_hold(f"{a} + {b} * {c} = {a + b * c}")
    assert not equations_hold(f"{a} - {b} * {c} = {a - b * c + 1}")


def test_a_right_answer_by_wrong_steps_is_not_verified():
    task = Task("3 + 4 = ?", "7", "drills/sum")
    assert verified(task, "3 + 4 = 7\nThe answer is 7.")
    assert not verified(task, "3 + 4 = 9\nThe answer is 7.")
    assert not verified(task, "3 + 4 = 7\nThe answer is 8.")


@pytest.mark.parametrize("level", range(1, 11))
def test_drills_verify_themselves(level):
    items = [drill(0, number, level) for number in range(120)]
    assert {item.tasks[0].kind.split("/")[1] for item in items} == set(KINDS)
    for item in items:
        assert verified(item.tasks[0], item.document.turns[1][1]), item
    assert len({item.key for item in items}) > 60


def test_drills_by_hand_and_their_answers_by_another_way():
    for level in (1, 5, 10):
        for number in range(200):
            item = drill(3, number, level)
            prompt, answer = item.tasks[0].prompt, item.tasks[0].answer
            kind = item.tasks[0].kind.split("/")[1]
            if kind == "sum":
                assert int(answer) == eval(prompt.removesuffix(" = ?"))
            elif kind == "largest":
                assert int(answer) == max(map(int, prompt[len("Largest of ") : -1].split(",")))
            elif kind == "reverse":
                assert answer.split() == prompt.split(": ")[1].split()[::-1]
            elif kind == "count":
                asked, letters = prompt[len("How many ") : -1].split(" in ")
                assert int(answer) == letters.split().count(asked)


def test_splits_are_disjoint_and_draws_go_on():
    questions = Questions(0, ("drills", "arithmetic"))
    train, after = questions.draw(2, "train", 100)
    more, _ = questions.draw(2, "train", 100, after)
    test = questions.held_out([2], "test", 50)[2]
    keys = {q.key for q in train}
    assert len(keys) == 100
    assert len(keys & {q.key for q in more}) < 10
    assert not keys & {q.key for q in test}
    assert questions.draw(2, "train", 100)[0] == train
    assert {q.task.domain for q in train} == {"drills", "arithmetic"}
    assert all(q.worked.turns[0][1] == q.task.prompt for q in train)


def test_a_level_that_runs_out_gives_fewer(folders, monkeypatch):
    monkeypatch.setattr("agent_forge.phases.forge.questions._MOST_MISSES", 60)
    found, _ = Questions(0, ("drills",)).draw(1, "test", 100_000)
    assert 100 < len(found) < 100_000
    with pytest.raises(ValueError, match="cannot practise"):
        Questions(0, ("chess",))
    # a corpus made of the synthetic world alone has no questions of files
    only = Questions(0, ("corpus",), Corpus.open(folders / "corpus"))
    assert only.draw(1, "train", 5)[0] == []


def test_questions_of_files_take_part(tmp_path):
    told = [problem(0, number, 1 + number % 10) for number in range(400)]
    rows = [
        {"question": item.tasks[0].prompt, "answer": f"{item.document.turns[1][1]} #### {item.tasks[0].answer}"}
        for item in told
    ]
    (tmp_path / "sums.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    filters = FilterSettings(min_quality=0.0, near_duplicates=False)
    ingest([str(tmp_path / "sums.jsonl")], tmp_path / "corpus", seed=0, filters=filters)
    questions = Questions(0, ("corpus",), Corpus.open(tmp_path / "corpus"))
    easy, hard = questions.draw(1, "train", 8)[0], questions.draw(10, "train", 8)[0]
    assert len(easy) == len(hard) == 8
    assert max(q.worked.num_bytes for q in easy) < min(q.worked.num_bytes for q in hard)


def test_own_answers_are_right_or_left_out(folders):
    model, tokenizer = load_model(folders / "model")
    questions = Questions(0, ("drills",)).draw(1, "train", 24)[0]
    found = own_answers(model, tokenizer, questions, temperature=0.8, max_tokens=16, seed=1)
    assert len(found) == 24
    for question, document in zip(questions, found, strict=True):
        if document is not None:
            assert document.turns[0][1] == question.task.prompt
            assert normalised(document.turns[1][1]) == normalised(question.task.answer)
    again = own_answers(model, tokenizer, questions, temperature=0.8, max_tokens=16, seed=1)
    assert again == found
    assert own_answers(model, tokenizer, [], temperature=0.8, max_tokens=16, seed=1) == []


def test_a_question_survives_its_json():
    question = Questions(0, ("drills", "tools")).draw(3, "train", 4)[0]
    assert [question_of(question_json(each)).task for each in question] == [each.task for each in question]
    assert [question_of(question_json(each)).worked.turns for each in question] == [
        each.worked.turns for each in question
    ]
