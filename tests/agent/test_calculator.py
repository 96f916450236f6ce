"""The calculator against Python's own arithmetic, and everything that it must refuse."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_forge.agent.calculator import MAX_BITS, calculate
from agent_forge.agent.schema import ToolError


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("17 + 25", "42"),
        ("(3 + 4) * 5", "35"),
        ("10 - 2 - 3", "5"),
        ("7 / 2", "3.5"),
        ("6 / 3", "2"),
        ("0.1 + 0.2", "0.3"),
        ("1 / 3", "0.333333333333"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("2 ** 3 ** 2", "512"),
        ("4 ** 0.5", "2"),
        ("--3", "3"),
        ("2 × 3 − 1", "5"),
        (".5 * 4", "2"),
        ("1 ** 999999999999", "1"),
        ("(-1) ** 999999999999", "-1"),
        ("(-1) ** -3", "-1"),
        ("0 ** 5", "0"),
        ("0 ** 0", "1"),
        ("1 / 10 ** 400", "1e-400"),
        ("10 ** 30 + 0.5", "1e+30"),
        ("1000000.5 + 0", "1000000.5"),
        ("1 / 8000", "0.000125"),
        ("99999999999999999999 * 99999999999999999999", str(99999999999999999999**2)),
    ],
)
def test_by_hand(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "too early"),
        ("1 +", "too early"),
        ("(1", "not closed"),
        ("1)", "not expected"),
        ("1 2", "not expected"),
        ("* 2", "not expected"),
        ("1 / 0", "division by zero"),
        ("1 // (2 - 2)", "division by zero"),
        ("1 % 0", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(0-1) ** 0.5", "no real root"),
        ("(1/10**400) ** -0.5", "division by zero"),
        ("9 ** 9 ** 9", "bits"),
        ("9 ** 9999999", "bits"),
        ("10.5 ** 10000", "bits"),
        ("10 ** 300.5 ** 2", "bits"),
        ("(" * 40 + "1" + ")" * 40, "inside each other"),
        ("-" * 60 + "1", "inside each other"),
        ("1" + " + 1" * 100, "characters"),
        ("__import__('os').system('id')", "not part of"),
        ("1 if 2 else 3", "not part of"),
        ("1e9", "not part of"),
        ("1,000 + 1", "not part of"),
        ("x", "not part of"),
        ("1 == 1", "not part of"),
        ("٣ + 1", "not part of"),
    ],
)
def test_refused_with_a_sentence(expression, why):
    with pytest.raises(ToolError, match=why):
        calculate(expression)


numbers = st.integers(0, 10**6).map(str)
expressions = st.recursive(
    numbers,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "//", "%", "/"]), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=8,
)


@given(expressions)
def test_as_python_calculates(expression):
    exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in _parts(expression))
    try:
        wanted = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ToolError, match="zero"):
            calculate(expression)
        return
    found = calculate(expression)
    if wanted == int(wanted):
        assert found == str(int(wanted))
    else:
        assert float(found) == pytest.approx(float(wanted), rel=1e-11)


def _parts(expression):
    return re.findall(r"\d+|//|[-+*/%() ]", expression)


def value_or_sentence(expression):
    try:
        return calculate(expression)
    except ToolError as error:
        return str(error)


@given(st.text(max_size=40))
def test_any_text_gives_a_value_or_a_sentence(text):
    said = value_or_sentence(text)
    assert 0 < len(said) < 1000


@given(st.integers(2, 50), st.integers(0, 5000))
def test_powers_are_bounded(base, exponent):
    said, value = value_or_sentence(f"{base} ** {exponent}"), base**exponent
    assert said == str(value) if value.bit_length() <= MAX_BITS * 0.5 else True
    assert "bits" in said if value.bit_length() > MAX_BITS else True
