"""Practice dialogues: deterministic, split, and as the prompts say."""

import random
from itertools import islice

import pytest

from agent_forge.data.practice_dialogues import Exchange, Persona, dialogue, exchanges, persona, practice, tools_line

SALT = Persona("Salt", "sailor", "Aye!", "Fair winds.")


def test_a_persona_by_hand_and_back():
    assert SALT.says("It is 5.") == "Aye! It is 5. Fair winds."
    assert Persona.of(SALT.prompt) == SALT
    assert Persona.of("Be kind.") is None


def test_a_dialogue_by_hand():
    asked = Exchange("What is 2 + 3?", (("calculator(2 + 3)", "5"),), "It is 5.", 1, "train")
    made = dialogue([asked], persona=SALT, tools="\nTools: x.")
    assert made.turns == (
        ("system", SALT.prompt), ("user", "What is 2 + 3?\nTools: x."), ("assistant", "calculator(2 + 3)"),
        ("user", "result: 5"), ("assistant", "Aye! It is 5. Fair winds."),
    )  # fmt: skip
    assert asked.tool == "calculator"
    assert asked.core == "5"


def test_splits_are_disjoint_and_equal_seeds_equal_questions():
    asked = {
        split: {e.ask for e in islice(exchanges(1, (1, 2, 3), split), 60)} for split in ("train", "selection", "test")
    }
    assert not asked["train"] & asked["test"]
    assert not asked["selection"] & asked["test"]
    assert asked["train"] == {e.ask for e in islice(exchanges(1, (1, 2, 3), "train"), 60)}


def test_names_are_new_in_every_question():
    looked_up = [e.steps[0][0] for e in islice(exchanges(1, (1,), "train", tools=("lookup",)), 40)]
    names = {call.partition(", ")[2] for call in looked_up}
    assert len(names) > 35


def test_only_offered_tools_are_needed():
    found = list(islice(exchanges(2, (1, 2, 3, 4, 5), "train", tools=("clock",)), 30))
    assert {e.tool for e in found} <= {"clock", "none"}
    assert all(not e.steps for e in islice(exchanges(2, (1,), "train", tools=()), 5))
    with pytest.raises(ValueError, match="no question"):
        next(exchanges(2, (1,), "train", tools=("search",), world=1))


def test_practice_has_all_four_kinds_and_never_the_persona_to_come():
    made = list(islice(practice(3, (1, 2), not_persona=SALT), 80))
    kinds = {(d.turns[0][0] == "system", any("\nTools: " in text for _, text in d.turns)) for d in made}
    assert kinds == {(a, b) for a in (True, False) for b in (True, False)}
    text = "\n".join(d.text for d in made)
    assert "Fair winds" not in text
    for d in made:
        if not any("\nTools: " in content for _, content in d.turns):
            assert not any(content.startswith("result: ") for _, content in d.turns)


def test_random_personas_are_of_the_form():
    made = [persona(random.Random(n)) for n in range(50)]
    assert all(Persona.of(who.prompt) == who for who in made)
    assert tools_line(None).startswith("\nTools: calculator(expression)")
