"""What a call is, what it is not, and how its arguments are read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.agent.calls import Call, may_become_call, parse_call, result_turn
from agent_forge.agent.schema import ToolError, check_schema, from_text, object_schema, validated
from agent_forge.errors import ConfigError

TWO = object_schema(person={"type": "string"}, what={"type": "string", "maxLength": 9})
MIXED = object_schema(
    hour={"type": "integer", "minimum": 0, "maximum": 23},
    share={"type": "number"},
    loud={"type": "boolean"},
    tone={"type": "string", "enum": ["low", "high"]},
)


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("calculator(17 + 25)", "calculator", "17 + 25"),
        (" lookup(town, Ada Vane)\n", "lookup", "town, Ada Vane"),
        ("python(for n in range(3):\n    print(n, (n)))", "python", "for n in range(3):\n    print(n, (n))"),
        ("now()", "now", ""),
    ],
)
def test_calls(text, name, arguments):
    assert parse_call(text) == Call(name, arguments)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is 42.",
        "calculator",
        "calculator(1",
        "Calculator(1)",
        "I call calculator(1)",
        "calculator(1).",
        "(1)",
        "a b(1)",
        "2f(1)",
    ],
)
def test_answers(text):
    assert parse_call(text) is None


@given(st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True), st.text(max_size=40))
def test_a_call_reads_back(name, arguments):
    call = Call(name, arguments.strip())
    assert parse_call(str(call)) == call
    assert all(may_become_call(str(call)[:end]) for end in range(len(str(call)) + 1))


@pytest.mark.parametrize("text", ["It", "i am", "42", "f.", "f )"])
def test_what_can_be_shown_at_once(text):
    assert not may_become_call(text)


def test_results_as_turns():
    assert result_turn("42", ok=True) == "result: 42"
    assert result_turn("division by zero", ok=False) == "result: error: division by zero"


def test_the_last_argument_takes_the_rest():
    assert from_text(TWO, "Ada Vane , a, b") == {"person": "Ada Vane", "what": "a, b"}
    assert from_text(object_schema(code={"type": "string"}), "f(1, 2)") == {"code": "f(1, 2)"}
    assert from_text(object_schema(), " ") == {}


def test_arguments_are_read_by_their_types():
    given_all = from_text(MIXED, "7, .5, True, low")
    assert given_all == {"hour": 7, "share": 0.5, "loud": True, "tone": "low"}
    assert [type(value) for value in given_all.values()] == [int, float, bool, str]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7.5, 1, true, low", "hour must be an integer, not 7.5"),
        ("24, 1, true, low", "hour must be at most 23, not 24"),
        ("-1, 1, true, low", "hour must be at least 0, not -1"),
        ("1, nan, true, low", "share must be a number, not nan"),
        ("1, 1, yes, low", "loud must be a boolean, not yes"),
        ("1, 1, true, loud", "tone must be one of low, high, not loud"),
        ("1, 1, true", "argument tone is missing; expected hour, share, loud, tone"),
        ("", "argument hour is missing"),
        ("9" * 99 + ", 1, true, low", "hour must be an integer"),
    ],
)
def test_one_sentence_for_what_is_wrong(text, why):
    with pytest.raises(ToolError, match=why):
        from_text(MIXED, text)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"person": "a"}, "argument what is missing"),
        ({"person": "a", "what": "b", "when": 1}, "unknown argument when"),
        ({"person": 1, "what": "b"}, "person must be a string, not 1"),
        ({"person": "a", "what": "b" * 10}, "what has 10 characters, 9 are allowed"),
    ],
)
def test_arguments_by_name(arguments, why):
    with pytest.raises(ToolError, match=why):
        validated(TWO, arguments)
    with pytest.raises(ToolError, match="takes no arguments"):
        from_text(object_schema(), "1")


def test_true_is_no_integer():
    with pytest.raises(ToolError, match="hour must be an integer"):
        validated(MIXED, {"hour": True, "share": 1, "loud": True, "tone": "low"})


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array"}, "must be an object"),
        ({"type": "object", "properties": {}, "oneOf": []}, "oneOf"),
        ({"type": "object", "properties": {"a": {"type": "array"}}}, "types"),
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "x"}}}, "pattern"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "not among"),
    ],
)
def test_what_cannot_be_checked_is_refused(schema, why):
    with pytest.raises(ConfigError, match=why):
        check_schema("t", schema)
