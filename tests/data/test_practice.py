"""Worked thoughts: every step is true, splits are disjoint, and the thought leads to the answer."""

import re
from itertools import islice

import pytest

from agent_forge.data.documents import Document
from agent_forge.data.packing import pack
from agent_forge.data.practice import DOMAIN, STRATEGIES, worked_thought, worked_thoughts
from agent_forge.data.thought_habit import habit, habit_tasks, with_habit
from agent_forge.data.tokenizer import add_thoughts, thought_ids, train_tokenizer


def parts(item):
    return dict(item.document.turns)


def test_seven_ways_to_think():
    items = list(islice(worked_thoughts(0, "train"), 300))
    assert {item.tasks[0].kind for item in items} == {f"thoughts/{name}" for name in STRATEGIES}
    assert len(STRATEGIES) == 7
    for item in items:
        roles = [role for role, _ in item.document.turns]
        assert roles == ["user", "thought", "assistant"]
        assert parts(item)["assistant"] == item.tasks[0].answer
        assert len(parts(item)["assistant"].split()) == 1


@pytest.mark.parametrize("level", [1, 5, 10])
@pytest.mark.parametrize("name", ["decompose", "doubt"])
def test_every_sum_is_true(name, level):
    for number in range(80):
        thought = parts(worked_thought(1, number, level, [name]))["thought"]
        sums = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", thought)
        assert sums
        for left, sign, right, result in sums:
            assert int(left) + (1 if sign == "+" else -1) * int(right) == int(result)


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("level", [1, 4, 10])
def test_answers_follow_from_the_questions(name, level):
    """Each family solved again, by another way than it was made."""
    for number in range(60):
        item = worked_thought(2, number, level, [name])
        question, answer = parts(item)["user"], parts(item)["assistant"]
        assert solved(name, question) == answer, question


def solved(name, question):
    if name == "decompose":
        signed = [(-1 if word == "take" else 1) * int(n) for word, n in re.findall(r"(with|add|take) (\d+)", question)]
        return str(sum(signed))
    if name == "follow":
        links = dict(re.findall(r"(\w+) to (\w+)", question))
        at, steps = re.search(r"From (\w+), (\d+)", question).groups()
        for _ in range(int(steps)):
            at = links[at]
        return at
    if name == "falsify":
        seen, asked = re.match(r"Seen: (.*)\. Which of (.*) is", question).groups()
        (missing,) = set(asked.split(", ")) - set(seen.split(", "))
        return missing
    if name == "doubt":
        numbers, claim = re.search(r"that (.*) = (-?\d+)", question).groups()
        return "yes" if sum(map(int, numbers.split(" + "))) == int(claim) else "no"
    if name == "view":
        row, place = re.match(r"A row: (.*)\. Which is number (\d+)", question).groups()
        return row.split(", ")[-int(place)]
    if name == "weigh":
        red, one, blue, other, signs = re.match(
            r"A (\w+) mark speaks for the (\w+), a (\w+) one for the (\w+): ([a-z ]+)\.", question
        ).groups()
        return one if signs.split().count(red) > signs.split().count(blue) else other
    things = re.match(r"There are (.*?):", question).group(1).split(", ")
    (left,) = set(things) - set(re.findall(r"has the (\w+)", question.split("What")[0]))
    return left


def test_splits_are_disjoint_and_items_are_a_function_of_seed_and_number():
    splits = {
        name: {item.document.turns[0][1] for item in islice(worked_thoughts(3, name), 400)}
        for name in ("train", "selection", "test")
    }
    assert not splits["train"] & splits["test"]
    assert not splits["train"] & splits["selection"]
    assert not splits["selection"] & splits["test"]
    assert worked_thought(3, 17, 2) == worked_thought(3, 17, 2)
    assert worked_thought(3, 17, 2) != worked_thought(4, 17, 2)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="guess"):
        worked_thought(0, 0, 1, ["guess"])
    with pytest.raises(ValueError, match="level 11"):
        worked_thought(0, 0, 11)


def test_later_phases_go_on_practising_and_only_with_models_that_think():
    tokenizer = train_tokenizer(["start with 3, add 4. what is left?"] * 4, 300)
    shards, mixture = {"stories": pack([Document("a story")], tokenizer)}, {"stories": 9.0}
    practice = {"seed": 0, "levels": [1], "strategies": ["decompose"]}
    assert habit(tokenizer, practice) is None
    add_thoughts(tokenizer)
    assert habit(tokenizer, None) is None
    assert with_habit(shards, mixture, None) == (shards, mixture)
    marks = [
        int((habit(tokenizer, {**practice, "direct_fraction": x}, items=200).tokens == thought_ids(tokenizer)[0]).sum())
        for x in (0.0, 0.25, 1.0)
    ]
    assert marks[0] == 200
    assert 130 < marks[1] < 170
    assert marks[2] == 0
    found, weights = with_habit(shards, mixture, habit(tokenizer, practice, items=20), fraction=0.1)
    assert weights == {"stories": 9.0, DOMAIN: pytest.approx(1.0)}
    assert (found[DOMAIN].tokens == thought_ids(tokenizer)[0]).sum() == 20


def test_questions_end_where_a_practice_has_no_more_different_ones():
    short = {"seed": 0, "levels": [1], "strategies": ["doubt"]}
    found = habit_tasks(short, 500)
    assert 10 < len(found) < 500
    assert len({task.prompt for task in found}) == len(found)
    assert habit_tasks(short, 10) == found[:10]
