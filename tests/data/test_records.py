"""One rule for each shape of record."""

import pytest

from agent_forge.data.records import to_document
from agent_forge.errors import DataError

CASES = {
    "text": ({"text": "hello"}, "hello", ()),
    "title": ({"title": "Albedo", "text": "White."}, "Albedo\n\nWhite.", ()),
    "instruction": (
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        "Add.\n1 2\n3",
        (("user", "Add.\n1 2"), ("assistant", "3")),
    ),
    "code": (
        {"prompt": "Sort it.", "code": "x.sort()", "tests": []},
        "Sort it.\nx.sort()",
        (("user", "Sort it."), ("assistant", "x.sort()")),
    ),
    "humaneval": ({"prompt": "def f():\n", "canonical_solution": "    return 1\n"}, "def f():\n    return 1\n", ()),
    "messages": (
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]},
        "hi\nho",
        (("user", "hi"), ("assistant", "ho")),
    ),
    "conversation": (
        {"conversation": [{"speaker": 1, "text": "hi"}, {"speaker": 2, "text": "ho"}]},
        "hi\nho",
        (("user", "hi"), ("assistant", "ho")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_shapes(name):
    record, text, turns = CASES[name]
    document, tasks = to_document(record, "d")
    assert (document.text, document.turns, tasks) == (text, turns, ())


def test_word_problem_keeps_its_steps_and_loses_its_marks():
    record = {"question": "2 hats at 3?", "answer": "2*3 = <<2*3=6>>6 coins\n#### 6", "final": "6"}
    document, (task,) = to_document(record, "d")
    assert document.turns[1] == ("assistant", "2*3 = 6 coins\nThe answer is 6.")
    assert (task.prompt, task.answer) == ("2 hats at 3?", "6")


def test_choices_and_endings_are_tasks():
    _, (task,) = to_document({"question": "Sky?", "choices": ["red", "blue"], "label": 1}, "d")
    assert (task.answer, task.choices) == ("blue", ("red", "blue"))
    document, (task,) = to_document({"context": "He ran", "endings": ["home.", "blue."], "label": 0}, "d")
    assert document.text == "He ran home."
    assert task.kind == "ending"


def test_function_calls():
    record = {
        "messages": [{"role": "user", "content": "Area of 3 by 4?"}],
        "functions": [
            {"name": "area", "description": "A rectangle.", "parameters": {"properties": {"w": {}, "h": {}}}}
        ],
        "ground_truth": [{"area": {"w": [3], "h": [4], "unit": ["", "cm"]}}],
    }
    document, (task,) = to_document(record, "d")
    assert task.answer == "area(w=3, h=4)"
    assert document.turns[0][1] == "Area of 3 by 4?\nTools: area(w, h) - A rectangle."
    nothing = to_document(record | {"ground_truth": []}, "d")[1][0]
    assert nothing.answer == "No tool fits."


def test_no_rule_names_the_fields():
    with pytest.raises(DataError, match=r"x\.jsonl record 1.*\(age, name\)"):
        to_document({"name": 1, "age": 2}, "d", "x.jsonl record 1")
