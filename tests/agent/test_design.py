"""Designs: a closed language that is read exactly or refused; attempts, votes and checks that decide an answer."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.agent.dialogues import CHAIN, DIALOGUES, PLAIN, taught

from agent_forge.agent.answer_checks import CHECKS, failed_checks
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.interpreter import Attempt, _Poll, answer
from agent_forge.agent.runtime import converse
from agent_forge.agent.thought_calculator import results_for
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript, Turn
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts
from agent_forge.errors import ArtifactCorrupt

QUESTIONS = [*DIALOGUES, *PLAIN, CHAIN[0]]
rows = st.builds(
    AgentDesign,
    think=st.sampled_from(["auto", "on", "off"]),
    tools=st.sampled_from(["first", "after", "never"]),
    samples=st.integers(1, 32),
    temperature=st.sampled_from([0.0, 0.5, 1.0]),
    greedy_first=st.booleans(),
    calculated=st.sampled_from(["no", "yes", "in turn"]),
    checks=st.dictionaries(st.sampled_from(list(CHECKS)), st.sampled_from(["doubt", "reject"])),
    enough=st.sampled_from([0.0, 1.0, 2.5]),
    thought_budget=st.integers(0, 99),
    max_calls=st.integers(0, 9),
    window=st.none() | st.integers(4, 99),
    experts=st.dictionaries(st.text(max_size=4), st.floats(0, 1)),
)
routed = st.dictionaries(st.text(min_size=1, max_size=4), rows, max_size=3)
designs = rows | st.builds(replace, rows, routes=routed)


NESTED = AgentDesign().to_json() | {"routes": {"sum": AgentDesign(think="on").to_json()}}


@given(designs)
def test_a_design_comes_back_from_its_file(design):
    assert AgentDesign.parse(json.dumps(design.to_json())) == design
    assert design.canonical() == design.canonical().canonical()
    assert hash(design) == hash(AgentDesign.from_json(design.to_json()))


@pytest.mark.parametrize(
    "change",
    [
        {"think": "often"}, {"samples": 0}, {"samples": 1000}, {"samples": 1.5}, {"temperature": -1}, {"window": 0},
        {"checks": {"arithmetic": "maybe"}}, {"checks": {"vibes": "reject"}}, {"code": "import os"}, {"format": 2},
        {"greedy_first": "yes"}, {"samples": True}, {"temperature": "hot"}, {"checks": 3}, {"experts": {"a": "b"}},
        {"routes": []}, {"routes": {"sum": 3}}, {"routes": {"sum": {}}}, {"routes": {"": AgentDesign().to_json()}},
        {"routes": {"sum": AgentDesign().to_json() | {"code": "import os"}}}, {"routes": {"sum": NESTED}},
    ],
)  # fmt: skip
def test_what_the_language_does_not_know_is_refused(change, tmp_path):
    with pytest.raises(ArtifactCorrupt):
        AgentDesign.from_json(AgentDesign().to_json() | change)
    (tmp_path / "agent.json").write_text(json.dumps(AgentDesign().to_json() | change), encoding="utf-8")
    with pytest.raises(ArtifactCorrupt, match=r"agent\.json"):
        AgentDesign.load(tmp_path)


def test_routes_by_hand(tmp_path):
    calculated = AgentDesign(calculated="yes", samples=1, temperature=0.9)
    design = AgentDesign(routes={"sum": calculated, "row": AgentDesign(temperature=0.3)})
    assert design.route("sum") == calculated
    assert design.route("never seen") == AgentDesign()
    assert design.canonical().routes == (("sum", AgentDesign(calculated="yes")),)  # "row" is the outer row
    assert not design.is_one_attempt
    assert design.route("row").is_one_attempt
    design.save(tmp_path)
    assert AgentDesign.load(tmp_path) == design
    with pytest.raises(ValueError, match="routes of its own"):
        AgentDesign(routes={"sum": design})


def test_a_file_from_before_routes_is_read_and_written_as_it_was():
    old = {
        "format": 1, "think": "auto", "tools": "first", "samples": 4, "temperature": 0.7, "greedy_first": True,
        "calculated": "yes", "checks": {"fresh": "doubt"}, "enough": 1.0, "thought_budget": 64, "max_calls": 8,
        "recursion_steps": None, "window": None, "experts": {}, "pruning": "",
    }  # fmt: skip
    found = AgentDesign.from_json(old)
    assert (found.samples, found.routes) == (4, ())
    assert found.to_json() == old


def test_files(tmp_path):
    assert AgentDesign.load(tmp_path) is None
    design = AgentDesign(samples=5, temperature=0.7, checks={"quoted": "doubt"})
    design.save(tmp_path)
    assert AgentDesign.load(tmp_path) == design
    (tmp_path / "agent.json").write_bytes(b"\xff{")
    with pytest.raises(ArtifactCorrupt, match="not JSON"):
        AgentDesign.load(tmp_path)
    for text in ("[1]", "{"):
        with pytest.raises(ArtifactCorrupt):
            AgentDesign.parse(text)


def test_the_default_design_is_the_model_as_it_is(agent, tokenizer, toolbox):
    found = answer(agent, tokenizer, toolbox, AgentDesign(), QUESTIONS)
    for question, each in zip(QUESTIONS, found, strict=True):
        alone = converse(agent, tokenizer, toolbox, [{"role": "user", "content": question}], max_tokens=128)
        assert [(t.kind, t.text) for t in each.transcript.turns] == [(t.kind, t.text) for t in alone.turns]
        assert each.num_tokens == alone.num_tokens > 0
        assert (each.num_attempts, each.is_blank) == (1, False)


def test_an_answer_depends_neither_on_company_nor_on_memory(agent, tokenizer, toolbox):
    design = AgentDesign(samples=3, temperature=1.5, greedy_first=False, checks={"quoted": "reject"}, enough=2.0)
    together = answer(agent, tokenizer, toolbox, design, QUESTIONS, seed=4)
    memo = {}
    ahead = answer(agent, tokenizer, toolbox, design, QUESTIONS, seed=4, memo=memo, ahead=3)
    shown = [(each.transcript.answer, each.num_tokens, each.num_attempts) for each in together]
    assert shown == [(each.transcript.answer, each.num_tokens, each.num_attempts) for each in ahead]
    size = len(memo)
    again = answer(agent, tokenizer, toolbox, AgentDesign(samples=2, temperature=1.5, greedy_first=False),
                   QUESTIONS, seed=4, memo=memo)  # fmt: skip
    assert len(memo) == size  # the same attempts
    assert len(again) == len(QUESTIONS)
    alone = answer(agent, tokenizer, toolbox, design, [QUESTIONS[2]], seed=4)[0]
    assert (alone.transcript.answer, alone.num_tokens) == shown[2][:2]
    assert answer(agent, tokenizer, toolbox, design, QUESTIONS, seed=5) != together


def test_tools_never_and_after(agent, tokenizer, toolbox):
    ask = "What is 17 + 25?"
    never, after, plain = (
        answer(agent, tokenizer, toolbox, AgentDesign(tools=tools), [question])[0]
        for tools, question in (("never", ask), ("after", ask), ("after", "Say fox."))
    )
    assert never.transcript.answer == "calculator(17 + 25)"  # words, not a call
    assert after.transcript.answer == "It is 42."
    assert after.num_attempts == 2
    assert after.num_tokens > never.num_tokens
    assert (plain.num_attempts, plain.transcript.answer) == (1, "fox")


def attempt(text, failed=(), stopped="answer", tokens=10):
    turns = [Turn("answer", text)] if text else []
    return Attempt(Transcript(turns, stopped, tokens), text.lower(), frozenset(failed))


def poll(design, *attempts):
    found = _Poll(design.canonical())
    for each in attempts:
        if not found.steps():
            break
        found.take(each)
    return found.outcome()


def test_votes_by_hand():
    """Three for 7, each doubted twice (3/16); one for 8, whole; one for 9, cut off (1/4)."""
    design = AgentDesign(samples=5, temperature=1.0, checks={"fresh": "doubt", "quoted": "doubt"})
    doubted = [attempt("7", ("fresh", "quoted"))] * 3
    found = poll(design, *doubted, attempt("9", stopped="tokens"), attempt("8", ("grounded",)))
    assert (found.transcript.answer, found.num_attempts, found.num_tokens) == ("8", 5, 50)
    assert poll(design, *doubted, attempt("9", stopped="tokens"), attempt("7")).transcript.answer == "7"


def test_without_any_weight_the_plain_vote_decides():
    design = AgentDesign(samples=4, temperature=1.0, checks={"fresh": "reject"}, enough=1.0)
    rejected = [attempt(text, ("fresh",)) for text in "7887"]
    assert poll(design, *rejected[:3], rejected[1]).transcript.answer == "8"
    assert poll(design, *rejected).transcript.answer == "7"  # two each: the earlier one


def test_enough_ends_it_and_blanks_never_win():
    design = AgentDesign(samples=9, temperature=1.0, enough=2.0)
    found = poll(design, attempt(""), attempt("1"), attempt("2"), attempt("1"), attempt("2"))
    assert (found.transcript.answer, found.num_attempts, found.is_blank) == ("1", 4, False)
    blank = poll(AgentDesign(samples=3, temperature=1.0), attempt(""), attempt(""), attempt(""))
    assert blank.is_blank
    assert blank.transcript.answer == ""


def told(*turns, stopped="answer"):
    return Transcript([Turn(kind, text, ok) for kind, text, *rest in turns for ok in [not rest]], stopped)


@pytest.mark.parametrize(
    ("question", "transcript", "failed"),
    [
        ("Start with 2, add 4.", told(("thought", "2 + 4 = 6"), ("answer", "6")), set()),
        ("Start with 2, add 4.", told(("thought", "2 + 4 = 7"), ("answer", "7")), {"arithmetic"}),
        ("Start with 2, add 4.", told(("thought", "2 + 3 = 5"), ("answer", "6")), {"covered", "concluded"}),
        ("2 then 2 then 1?", told(("thought", "2 - 1 = 1"), ("answer", "1")), {"covered"}),
        ("A row: fig, pie.", told(("thought", "pie, pie"), ("answer", "Pie.")), {"fresh"}),
        ("What is 3 + 44?", told(("call", "calculator(3 + 44)"), ("result", "47"), ("answer", "47.")), set()),
        ("What is 3 + 44?", told(("call", "calculator(3 + 4)"), ("result", "7"), ("answer", "It is 7.")),
         {"covered", "grounded"}),
        ("What is 3 + 44?", told(("call", "calculator(3 + 44)"), ("result", "47"), ("answer", "It is 4.")), {"quoted"}),
        ("Town of Ada?", told(("call", "lookup(town, Bo)"), ("result", "no", 0), ("answer", "no")),
         {"grounded", "quoted"}),
        ("Who?", told(("call", "lookup(friend, Who)"), ("result", "Bo Lock"), ("call", "lookup(town, Bo Lock)"),
                      ("result", "Belmere"), ("answer", "Belmere.")), set()),
        ("Anything?", told(), set()),
    ],
)  # fmt: skip
def test_checks_by_hand(question, transcript, failed, toolbox):
    assert failed_checks(question, transcript, toolbox) == failed


def test_without_a_calculator_no_equation_is_doubted():
    wrong = told(("thought", "2 + 2 = 5"), ("answer", "5"))
    assert failed_checks("2 and 2?", wrong, None) == failed_checks("2 and 2?", wrong, Toolbox([])) == frozenset()


@pytest.fixture(scope="module")
def thinker(tokenizer):
    """Thinks aloud, and calculates wrongly."""
    import copy

    owned = copy.deepcopy(tokenizer)
    add_thoughts(owned)
    turns = [("user", "Add 3 and 4."), ("thought", "3 + 4 = 8"), ("assistant", "done")]
    return taught(owned, [Document.chat(turns)], 60), owned


def test_the_calculator_writes_results_into_thoughts(thinker, toolbox):
    model, tokenizer = thinker
    ask = ["Add 3 and 4."]
    own, helped = (
        answer(model, tokenizer, toolbox, AgentDesign(calculated=how), ask, max_tokens=12)[0].transcript.turns
        for how in ("no", "yes")
    )
    assert own[0] == Turn("thought", "3 + 4 = 8")
    assert helped[0].text.startswith("3 + 4 = 7")
    assert results_for(tokenizer, Toolbox([])) is None
    insert = results_for(tokenizer, toolbox)
    inside = tokenizer.encode("<think>12 - 20 =", add_special_tokens=False)
    assert tokenizer.decode(list(insert(inside))) == " -8"
    for text in ("12 - 20 =", "<think>12 - 20 = -8</think>1 + 1 =", "<think>1 / 0 =", "<think>x ="):
        assert not insert(tokenizer.encode(text, add_special_tokens=False))


def test_the_shape_of_the_model_is_changed_and_given_back(agent, tokenizer):
    with pytest.raises(ValueError, match="recursion_steps"):
        answer(agent, tokenizer, None, AgentDesign(recursion_steps=2), ["Say fox."])
    from agent_forge.agent.interpreter import shaped
    from agent_forge.model import CognateConfig, CognateForCausalLM

    model = CognateForCausalLM(CognateConfig(vocab_size=50, hidden_size=32, num_attention_heads=2, recursion_steps=2))
    before = model.config.sliding_window
    with shaped(model, AgentDesign(window=7, recursion_steps=1)):
        assert (model.config.sliding_window, model.config.recursion_steps) == (7, 1)
        assert model.make_cache().window == 7
    assert (model.config.sliding_window, model.config.recursion_steps) == (before, 2)


def test_a_conversation_is_answered_too(agent, tokenizer, toolbox):
    messages = [{"role": "user", "content": "What is 17 + 25?"}]
    design = AgentDesign(samples=2, temperature=0.5)
    alone, asked = answer(agent, tokenizer, toolbox, design, [messages, "What is 17 + 25?"])
    assert alone.transcript.answer == asked.transcript.answer == "It is 42."
