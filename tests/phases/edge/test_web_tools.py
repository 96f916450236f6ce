"""Calls and tools of the page against those of Python: the same results, the same sentences where there is none."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.agent.dialogues import RECORDS
from tests.phases.edge.pages import ask_page

from agent_forge.agent.calls import may_become_call, parse_call
from agent_forge.agent.kinds import tool_row
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import printable
from agent_forge.phases.edge.web_export import _tools

ROWS = [tool_row(kind) for kind in ("calculator", "clock", "lookup", "retrieve")] + [tool_row("search", within=2)]
SIGNS = ["+", "-", "*", "/", "//", "%", "**", "×", "÷", "·", "−"]
PIECES = ["(", ")", "a", "'", "\\", "\u200b", "é", " ", "\x85", "😀", "=", "\t", ".", "\x00"]


@pytest.fixture(scope="module")
def toolbox():
    knowledge = {"format": 1, "records": RECORDS | {"1984": {"town": "Room 101"}, "Straße Nord": {"town": "ẞ"}}}
    return Toolbox.from_json(json.dumps({"format": 1, "tools": ROWS}), json.dumps(knowledge))


def compared(toolbox, turns):
    """(turn, Python's outcome, the page's) where the two differ."""
    carried = _tools(toolbox)
    got = ask_page("call", manifest=carried["tools"], knowledge=carried["knowledge"], turns=turns)
    wrong = []
    for turn, there in zip(turns, got, strict=True):
        call = parse_call(turn)
        result = None if call is None else toolbox.call(call)
        here = {
            "call": call and {"name": call.name, "text": call.arguments},
            "opening": may_become_call(turn),
            "result": result and {"text": result.text, "ok": result.ok},
        }
        wrong += [] if here == there else [(turn, here, there)]
    return wrong


def number(rng):
    return rng.choice(
        [
            lambda: str(rng.randrange(100)),
            lambda: f"{rng.randrange(1000)}.{rng.randrange(100):02d}",
            lambda: str(rng.randrange(10 ** rng.randrange(1, 40))),
            lambda: f".{rng.randrange(1000)}",
            lambda: rng.choice(["0", "1", "2.", "10", "15"]),
        ]
    )()


def expression(rng, depth):
    kind = rng.random() if depth else 0.0
    if kind < 0.2:
        return number(rng)
    if kind < 0.4:
        return f"({expression(rng, depth - 1)})" if kind < 0.3 else rng.choice("+-−") + expression(rng, depth - 1)
    gap = rng.choice(["", " "])
    return expression(rng, depth - 1) + gap + rng.choice(SIGNS) + gap + expression(rng, depth - 1)


def test_the_calculator_by_hand(toolbox):
    turns = [
        "calculator(17 + 25)",
        "calculator(1 / 3)",
        "calculator(-7 // 2)",
        "calculator(2 ** 0.5)",
        "calculator(1/0)",
    ]
    got = ask_page("call", manifest=_tools(toolbox)["tools"], knowledge=None, turns=turns)
    assert [row["result"]["text"] for row in got] == ["42", "0.333333333333", "-4", "1.41421356237", "division by zero"]


def test_thousands_of_expressions(toolbox):
    rng = random.Random(1)
    turns = []
    for _ in range(3000):
        text = expression(rng, rng.randrange(5))
        place = rng.randrange(len(text) + 1)
        turns.append(f"calculator({text[:place] + rng.choice(PIECES) + text[place:] if rng.random() < 0.15 else text})")
    assert compared(toolbox, turns) == []


def test_powers_that_are_no_whole_numbers_are_those_of_python_to_the_shown_digits(toolbox):
    rng = random.Random(2)
    turns = [
        f"calculator({rng.randrange(1, 10**12)} ** {rng.choice(['0.5', '(1/3)', '-0.25', f'{rng.random():.4f}'])} / 7)"
        for _ in range(1000)
    ]
    assert compared(toolbox, turns) == []


EDGES = [
    "calculator(0 ** 0.5)", "calculator((10 ** 400) ** 0.5)", "calculator((1 / 10 ** 400) ** 0.5)",
    "calculator((1 / 10 ** 400) ** -0.5)", "calculator(10 ** 308.5)", "calculator(10 ** -330.5)",
    "calculator((0-1) ** 0.5)", "calculator((-1) ** 10 ** 30)", "calculator(1 ** -3)", "calculator(0 ** -1)",
    "calculator(0 ** 0)", "calculator(123456789012345.5)", "calculator(1234567890123456.5)", "calculator(1/10**7)",
    "calculator(0.0000125)", "calculator(999999999999.95)", "calculator(2 ** 2048)", "calculator(2 ** 2047)",
    "calculator()", "calculator(" + "1+" * 120 + "1)", "calculator(" + "(" * 40 + "1" + ")" * 40 + ")",
    "calculator(" + "-" * 40 + "1)", "calculator(1 2)", "calculator(1 +)", "calculator(1 + * 2)",
    " calculator( 2 + 2 ) ", "\ncalculator(2,\n3)\n", "calculator(2+2) so", "print(3)", "Ada", "calc", "calculator(",
    "x" * 70 + "(1)", "x" * 64 + "(1)", "Calculator(1)",
    "clock(22, 5)", "clock(24, 1)", "clock(-1, 1)", "clock(1, 10001)", "clock(1)", "clock()", "clock(1, 2, 3)",
    "clock(٢٢, ５)", "clock(1e3, 2)", "clock(+5, 1)", "clock(" + "9" * 30 + ", 1)", "clock(" + "9" * 31 + ", 1)",
    "lookup(town, Ada Vane)", "lookup(TOWN,  ada \u3000 VANE )", "lookup(size, Bo Lock)", "lookup(town, Nobody)",
    "lookup(town, 1984)", "lookup(town, STRASSE NORD)", "lookup(town, straße nord)", "lookup(town)", "lookup()",
    "lookup(" + "a" * 41 + ", b)", "lookup(a, " + "😀" * 101 + ")", "lookup(a, " + "b" * 99 + ")",
    "search(trade, baker)", "search(trade, Baker)", "search(town, ß)", "search(size, 3)", "search(trade, king)",
    "retrieve(sheep)", "nosuch(1)",
]  # fmt: skip


def test_edges(toolbox):
    assert compared(toolbox, EDGES) == []


# a character that is newer than Python's Unicode tables prints in a browser and not here
@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=30), min_size=40, max_size=40))
@settings(max_examples=5, deadline=None)
def test_any_words_in_a_call(toolbox, texts):
    names = ("calculator", "clock", "lookup", "search")
    assert compared(toolbox, [f"{names[place % 4]}({text})" for place, text in enumerate(texts)] + texts) == []


def test_text_is_seen_as_python_sees_it():
    texts = ["  a\x1cb\u3000", "\ufeffx\ufeff", "ΑΣ ΟΔΟΣ Straße İı ẞ ŉ Ꭰꭰ K ſ", "a\x00\u200b\u2028\tb\n", "٣"]
    wanted = [[text.strip(), text.casefold(), printable(text), text.split()] for text in texts]
    assert ask_page("text", texts=texts) == wanted


def test_a_manifest_of_another_format_is_refused(toolbox):
    with pytest.raises(ValueError, match="format 2, the page reads 1"):
        ask_page("call", manifest={"format": 2, "tools": []}, knowledge=None, turns=[])
    with pytest.raises(ValueError, match="unknown kind oracle"):
        ask_page("call", manifest={"format": 1, "tools": [ROWS[0] | {"kind": "oracle"}]}, knowledge=None, turns=[])


def test_tools_without_what_they_need_say_so(toolbox):
    got = ask_page("call", manifest=_tools(toolbox)["tools"], knowledge=None, turns=["lookup(town, Ada Vane)"])
    bare = Toolbox.from_json(json.dumps({"format": 1, "tools": ROWS}))
    assert got[0]["result"] == {"text": bare.call(parse_call("lookup(town, Ada Vane)")).text, "ok": False}
