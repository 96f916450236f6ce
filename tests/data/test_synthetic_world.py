"""The synthetic world: the same again, true answers, and splits that never meet."""

import re
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_forge.data.synthetic_world import DOMAINS, LEVELS, generate
from agent_forge.data.synthetic_world.code import Writer, program
from agent_forge.data.synthetic_world.facts import OF_TOWN, OWN, person, question_split, value
from agent_forge.data.synthetic_world.personas import Persona
from agent_forge.data.synthetic_world.tiny_language import Stopped, render, run
from agent_forge.data.synthetic_world.words import stream


def some(domain, count=400, seed=7, **options):
    return list(islice(generate(seed, domain, **options), count))


@pytest.mark.parametrize("domain", DOMAINS)
def test_items_are_a_function_of_seed_and_number(domain):
    straight = some(domain, 30)
    assert straight == some(domain, 30)
    assert straight[11:30] == list(islice(generate(7, domain, start=11), 19))
    assert straight != some(domain, 30, seed=8)


@pytest.mark.parametrize("domain", DOMAINS)
def test_splits_never_meet(domain):
    by_split: dict[str, dict[str, set[str]]] = {}
    for seed in (7, 8):
        for item in some(domain, 600, seed=seed):
            held = by_split.setdefault(item.split, {"keys": set(), "texts": set(), "prompts": set()})
            held["keys"].add(item.key)
            held["texts"].add(item.document.text)
            held["prompts"] |= {f"{seed if domain == 'facts' else ''}{task.prompt}" for task in item.tasks}
    assert set(by_split) == {"train", "selection", "test"}
    for kind in ("keys", "texts", "prompts"):
        assert not by_split["train"][kind] & by_split["test"][kind]
        assert not by_split["train"][kind] & by_split["selection"][kind]
        assert not by_split["selection"][kind] & by_split["test"][kind]


@pytest.mark.parametrize("domain", DOMAINS)
def test_levels_grow(domain):
    sizes = [sum(i.document.num_bytes for i in some(domain, 150, levels=[level])) / 150 for level in (1, 10)]
    assert sizes[1] > (1.0 if domain == "facts" else 1.4) * sizes[0]
    assert {item.document.level for item in some(domain, 40)} == set(LEVELS)


def test_worked_steps_are_true_sums():
    seen = 0
    for item in some("arithmetic", 500):
        worked = item.document.turns[1][1]
        for left, right in re.findall(r"([0-9 +*/()-]+) = (-?\d+)", worked):
            assert re.fullmatch(r"[0-9 +*/()-]+", left)
            assert eval(left) == int(right), worked
            seen += 1
        assert worked.endswith(f"The answer is {item.tasks[0].answer}.")
    assert seen > 1000


def printed_by_python(source):
    """Python's own verdict: the parity reference. The source comes from our generator and nowhere else."""
    printed: list[str] = []
    exec(source, {"print": lambda *values: printed.append(" ".join(map(str, values)))})
    return "\n".join(printed)


def test_programs_print_what_python_prints():
    for number in range(300):
        item = program(3, number, 1 + number % 10)
        source = item.tasks[0].prompt.split("\n\n", 1)[1]
        assert printed_by_python(source) == item.tasks[0].answer, source


def test_the_language_by_hand():
    n = ("var", "n")
    tree = [
        ("set", "n", ("num", 10)),
        ("while", ("bin", ">", n, ("num", 2)), [("set", "n", ("bin", "//", n, ("num", 2)))]),
        ("if", ("bin", "==", n, ("num", 2)), [("print", ("str", "two"), n)], []),
    ]
    assert render(tree) == 'n = 10\nwhile n > 2:\n    n = n // 2\nif n == 2:\n    print("two", n)'
    assert run(tree) == "two 2"
    with pytest.raises(Stopped):
        run([("set", "n", ("num", 1)), ("while", ("bin", ">", n, ("num", 0)), [("add", "n", "+", ("num", 0))])])
    with pytest.raises(ValueError, match="zero"):
        run([("print", ("bin", "%", ("num", 1), ("num", 0)))])


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6), level=st.integers(1, 10))
def test_every_program_can_be_written(seed, level):
    tree = Writer(stream("test", seed), level).write()
    assert compile(render(tree), "program", "exec") is not None


def test_story_answers_follow_from_the_text():
    for item in some("stories", 300):
        task = item.tasks[0]
        text = task.prompt.rsplit("\n\n", 1)[0]
        for part in re.split(r", | and ", task.answer):
            assert part.removeprefix("the ") in text, (task.answer, text)


def test_where_people_are_is_where_they_went_last():
    for item in some("stories", 400, levels=[2]):
        task = item.tasks[0]
        if task.kind != "stories/where":
            continue
        name = re.search(r"Where is (\w+) at", task.prompt)[1]
        text = task.prompt.rsplit("\n\n", 1)[0]
        moves = re.findall(rf"{name} (?:moved to|got bored and walked over to|left for) the ([\w -]+)\.", text)
        if moves:
            assert task.answer == f"the {moves[-1]}"


def test_facts_are_told_and_asked_alike():
    seed, told = 5, 0
    for item in some("facts", 500, seed=seed):
        for who in range(12):
            them = person(seed, who)
            if item.document.turns and f"What is the trade of {them.name}?" in item.document.text:
                place = [content for _, content in item.document.turns].index(f"What is the trade of {them.name}?")
                assert item.document.turns[place + 1][1] == them.trade
                told += 1
    assert told > 0


def test_a_linked_fact_by_hand():
    friend = person(1, person(1, 3).friend)
    assert value(1, 3, "friend's trade") == friend.trade
    assert value(1, 3, "friend's teacher's born") == str(person(1, friend.teacher).born)


def test_each_pair_is_asked_in_one_split_only():
    assert {question_split(1, who, what) for who in range(20) for what in OWN + OF_TOWN} == {
        "train",
        "selection",
        "test",
    }
    asked: dict[str, str] = {}
    for item in some("facts", 800, seed=1):
        for task in item.tasks:
            assert asked.setdefault(task.prompt, item.split) == item.split


def test_tool_calls_are_right():
    checked = 0
    for item in some("tools", 400):
        turns = item.document.turns
        for (_, call), (_, result) in pairwise(turns):
            if found := re.fullmatch(r"calculator\(([0-9 +*()-]+)\)", call):
                assert result == f"result: {eval(found[1])}"
                checked += 1
            if found := re.fullmatch(r"clock\((\d+), (\d+)\)", call):
                assert result == f"result: {(int(found[1]) + int(found[2])) % 24}"
                checked += 1
        assert turns[0][0] in ("user", "system")
        assert turns[-1][0] == "assistant"
    assert checked > 100


def test_a_persona_is_kept_to_the_end_and_what_is_asked_belongs_to_one_split():
    asked: dict[str, str] = {}
    kept = 0
    for item in some("tools", 600):
        turns = item.document.turns
        who = Persona.of(turns[0][1]) if turns[0][0] == "system" else None
        kept += who is not None
        for (role, said), (_, heard) in pairwise((*turns, ("user", ""))):
            if role == "user" and not said.startswith("result: "):
                assert asked.setdefault(said.split("\nTools: ")[0], item.split) == item.split
            if role == "assistant" and who and not heard.startswith("result: "):
                assert said.startswith(who.opening + " ")
                assert said.endswith(" " + who.closing)
    assert 150 < kept < 330


def test_unknown_domains_and_levels_are_refused():
    with pytest.raises(ValueError, match="stories"):
        next(generate(1, "poems"))
    with pytest.raises(ValueError, match="1–10"):
        next(generate(1, "code", [11]))
