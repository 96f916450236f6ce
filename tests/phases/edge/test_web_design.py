"""Designs in the page: the same seeds, draws, inserted results, checks, votes and kinds of question as in Python."""

import hashlib
import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.phases.edge.pages import ask_page

from agent_forge.agent.answer_checks import CHECKS, failed_checks, words
from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, Dispatcher
from agent_forge.agent.interpreter import Attempt, _Poll, _seed
from agent_forge.agent.kinds import tool_row
from agent_forge.agent.thought_calculator import results_for
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript, Turn
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.model.row_generation import _Rows, _uniform
from agent_forge.phases.edge.web_design import left_out, page_design, rows_of, think_of, told
from agent_forge.phases.edge.web_dialogue import dialogue

ROWS = {"format": 1, "tools": [tool_row("clock"), tool_row("calculator")]}
TEXTS = ["", "What is 17 + 25?", 'naïve "🙂" \\ \x7f\x00\x1f\u2028\n\t你', "ı" * 300]


def said(text, *before):
    return [*({"role": "assistant", "content": each} for each in before), {"role": "user", "content": text}]


def drawn(conversations, number, seed, turn, count):
    """What Python makes of it."""
    found = []
    for messages in conversations:
        of_attempt = _seed(messages, number, seed)
        of_turn = (of_attempt + turn * 0x9E3779B97F4A7C15) % 2**63
        found.append({"seed": str(of_attempt), "turn": str(of_turn), "numbers": _uniform([of_turn], count)[0].tolist()})
    return found


@pytest.mark.parametrize(("number", "seed", "turn"), [(0, 0, 0), (3, 0, 1), (31, 7, 8), (-1, 2**31, 2)])
def test_the_numbers_of_a_turn_are_those_of_pytorch(number, seed, turn):
    conversations = [said(text) for text in TEXTS] + [said("And now?", "It is 42.", TEXTS[2])]
    got = ask_page("draws", conversations=conversations, attempts=[number, seed], turns=turn, count=700)
    assert got == drawn(conversations, number, seed, turn, 700)


@given(st.lists(st.text(max_size=40), min_size=30, max_size=30))
@settings(max_examples=3, deadline=None)
def test_any_question_has_the_seed_of_python(texts):
    conversations = [said(text) for text in texts]
    got = ask_page("draws", conversations=conversations, attempts=[1, 0], turns=0, count=1)
    assert got == drawn(conversations, 1, 0, 0, 1)


def test_the_digest_is_that_of_hashlib_at_the_edges_of_its_blocks():
    texts = ["a" * count for count in (0, 1, 127, 128, 129, 255, 256, 257, 1000)]
    wanted = [str(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")) for text in texts]
    assert ask_page("digest", texts=texts) == wanted


def test_a_draw_by_hand():
    half = [0.0, 0.0]
    cases = [{"logits": half, "temperature": 0.7, "number": number} for number in (0.0, 0.4999, 0.5, 0.999)]
    cases.append({"logits": [None, 0.0, None], "temperature": 0.3, "number": 0.9999999})
    assert ask_page("choose", cases=cases) == [0, 0, 1, 1, 1]


def test_draws_choose_the_tokens_of_python():
    generator = torch.Generator().manual_seed(0)
    cases, wanted = [], []
    rows = object.__new__(_Rows)
    rows.alive = [0]
    for count in range(400):
        logits = torch.randn(40, generator=generator) * 3
        if count % 3 == 0:
            logits[torch.rand(40, generator=generator) < 0.5] = float("-inf")
        number = float(torch.rand(1, generator=generator, dtype=torch.float64))
        rows.temperature, rows.uniform = (0.3, 1.0, 2.0)[count % 3], torch.tensor([[number]], dtype=torch.float64)
        shown = [None if value == float("-inf") else value for value in logits.tolist()]
        cases.append({"logits": shown, "temperature": rows.temperature, "number": number})
        wanted.append(int(rows._choose(logits[None], 0)))
    assert ask_page("choose", cases=cases) == wanted
    assert len(set(wanted)) > 20


@pytest.fixture(scope="module")
def tokenizer():
    found = train_tokenizer(["12 + 7 = 19, 3 * 4 = 12, so it is 31. Ada Vane has 8 - 5 = 3."] * 4, 320)
    add_thoughts(found)
    return found


def test_results_are_put_where_python_puts_them(tokenizer):
    toolbox = Toolbox.from_json(json.dumps(ROWS))
    texts = [
        "12 + 7 =", "so 12+7=", "12 + 7 = 19, 19 * 2 =", "1 / 3 =", "8 / 0 =", "-4 - 5 =", "1.5 + 2 =", "x =", "12 + 7",
        "12 + 7 = ", "3 + 4 + 5 =", "٣ + 4 =", "12 + 7 == ",
    ]  # fmt: skip
    opening, closing = (tokenizer.get_vocab()[mark] for mark in ("<think>", "</think>"))
    turns = []
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        turns += [ids, [opening, *ids], [opening, *ids, closing], [opening, 5, closing, *ids], [opening, *ids[:-1]]]
    insert = results_for(tokenizer, toolbox)
    wanted = [list(insert(ids)) for ids in turns if ids]
    asked = {
        "tokenizer": json.loads(tokenizer.backend_tokenizer.to_str()), "dialogue": dialogue(tokenizer),
        "texts": [ids for ids in turns if ids],
    }  # fmt: skip
    assert ask_page("insert", manifest=ROWS, **asked) == wanted
    assert sum(map(bool, wanted)) >= 6
    assert ask_page("insert", manifest={"format": 1, "tools": ROWS["tools"][:1]}, **asked) is None  # no calculator
    without = asked | {"dialogue": {**asked["dialogue"], "opening": None, "closing": None}}
    assert ask_page("insert", manifest=ROWS, **without) is None


def test_a_conversation_without_room_for_a_turn_ends(tokenizer):
    file = json.loads(tokenizer.backend_tokenizer.to_str())
    asked = {"messages": said("12 + 7?"), "row": page_design(AgentDesign(), {})["design"], "tokenizer": file}
    got = ask_page("attempt", dialogue=dialogue(tokenizer) | {"positions": 100, "stop": [2]}, **asked)
    assert got == [{"type": "end", "stopped": "context"}]


STEPS = [
    ("thought", "12 + 7 = 19, 19 - 2 = 17"), ("thought", "12 + 7 = 20"), ("thought", "one step; one step"),
    ("thought", "a\nb, c"), ("thought", "1.5 + 2 = 3"), ("call", "calculator(12 + 7)"),
    ("call", "lookup(town, Ada Vane)"), ("call", "lookup(town, ada vane)"), ("result", "19"), ("result", "Bo-Lock"),
    ("result", "ßa (x"),
    ("result", "division by zero"), ("answer", "It is 19."), ("answer", "SSA (x and 17"), ("answer", "Bo-Lock ½ x_1"),
    ("answer", ""), ("answer", "Bo-Lock-er 190"),
]  # fmt: skip
ASKED = ["What is 12 + 7?", "Where does Ada Vane live?", "٣ and ½ of 12, 12?", "Straße 19 Town", ""]


@pytest.mark.parametrize("manifest", [ROWS, None], ids=["calculator", "none"])
def test_checks_fail_where_those_of_python_fail(manifest):
    toolbox = None if manifest is None else Toolbox.from_json(json.dumps(manifest))
    rng = random.Random(1)
    cases, wanted = [], []
    for _ in range(1500):
        steps = [(*rng.choice(STEPS), rng.random() < 0.9) for _ in range(rng.randrange(5))]
        question = rng.choice(ASKED)
        turns = [Turn(kind, text, ok) for kind, text, ok in steps]
        cases.append({"question": question, "turns": [{"kind": k, "text": t, "ok": ok} for k, t, ok in steps]})
        failed = failed_checks(question, Transcript(turns), toolbox)
        wanted.append({"failed": sorted(failed), "words": [words(turn.text) for turn in turns]})
    assert ask_page("checks", manifest=manifest, cases=cases) == wanted
    often = [sum(name in row["failed"] for row in wanted) for name in CHECKS if manifest or name != "arithmetic"]
    assert min(often) > 20


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cn"])), min_size=60, max_size=60))
@settings(max_examples=5, deadline=None)
def test_words_are_those_of_python(texts):
    (got,) = ask_page("checks", cases=[{"question": "", "turns": [{"kind": "result", "text": text} for text in texts]}])
    assert got["words"] == [words(text) for text in texts]


def some_design(rng):
    consequences = {name: rng.choice(["doubt", "reject"]) for name in rng.sample(list(CHECKS), rng.randrange(4))}
    return AgentDesign(
        tools=rng.choice(["first", "after", "never"]), samples=rng.randint(1, 6), temperature=rng.choice([0.0, 0.5]),
        greedy_first=rng.random() < 0.5, calculated=rng.choice(["no", "yes", "in turn"]), checks=consequences,
        enough=rng.choice([0.0, 0.25, 1.0, 1.5, 2.0]),
    )  # fmt: skip


def some_attempt(rng):
    return (
        rng.choice(["19", "It is 19.", "20", "", "!?", "lookup(town)"]),
        rng.choice(["answer", "answer", "tokens", "calls"]),
        frozenset(rng.sample(list(CHECKS), rng.randrange(3))),
    )


def test_attempts_and_votes_are_those_of_python():
    rng = random.Random(3)
    cases = [(some_design(rng), [some_attempt(rng) for _ in range(7)]) for _ in range(2000)]
    asked, wanted = [], []
    for row, made in cases:
        design = row.canonical()
        poll, steps = _Poll(design), []
        while open_steps := poll.steps():
            text, stopped, failed = made[len(steps)]
            steps.append(list(open_steps[0]))
            poll.take(Attempt(Transcript([Turn("answer", text)], stopped), " ".join(words(text)), failed))
        won = next(n for n, each in enumerate(poll.taken) if each.transcript is poll.outcome().transcript)
        wanted.append({"made": steps, "votes": [list(vote) for vote in poll.votes().items()], "won": won + 1})
        asked.append({
            "row": page_design(design, {})["design"],
            "attempts": [
                {"turns": [{"kind": "answer", "text": text}], "stopped": stopped, "failed": sorted(failed),
                 "vote": " ".join(words(text))}
                for text, stopped, failed in made
            ],
        })  # fmt: skip
    assert ask_page("poll", cases=asked) == wanted


def test_kinds_are_those_of_python():
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(4, 16, generator=generator), torch.randn(4, generator=generator)
    dispatcher = Dispatcher((BASE, "sum", "view 4", "no tool 2, 4"), weight, bias)
    features = torch.randn(200, 16, generator=generator, dtype=torch.float64)
    classifier = {"classes": dispatcher.classes, "weight": weight.tolist(), "bias": bias.tolist()}
    assert ask_page("kinds", classifier=classifier, features=features.tolist()) == dispatcher.choose(features)
    even = {"classes": ["base", "sum", "row"], "weight": [[0.0], [1.0], [1.0]], "bias": [0.0, 0.0, 0.0]}
    assert ask_page("kinds", classifier=even, features=[[1.0]]) == ["sum"]


MATRICES = [{"name": "up.weight", "rank": 2}, {"name": "down.weight", "rank": 1}]
ROUTED = AgentDesign(
    think="on", thought_budget=7, max_calls=2,
    routes={
        "sum": AgentDesign(samples=4, temperature=0.7, tools="after"), "row": AgentDesign(experts={"a": 1, "b": 0.5}),
    },
)  # fmt: skip


def test_what_a_page_gets_of_a_design():
    plain = page_design(AgentDesign(), {})
    assert plain["classifier"] is None
    assert plain["design"] == {
        "think": "auto", "tools": "first", "samples": 1, "temperature": 0.0, "greedy_first": True, "calculated": "no",
        "checks": {}, "enough": 0.0, "thought_budget": 128, "max_calls": 8, "experts": None, "routes": {},
    }  # fmt: skip
    vectors = {"a": [0.5, -1.0], "b": [1.0, 2.0]}
    manifest = {"experts": {"shape": [1, 2], "matrices": MATRICES[:1], "vectors": vectors}, "routes": {"classes": []}}
    routed = page_design(ROUTED, manifest)
    assert (routed["classifier"], routed["design"]["thought_budget"]) == ({"classes": []}, 7)
    assert routed["design"]["routes"]["row"]["experts"] == [1.0, 0.0]
    assert routed["design"]["routes"]["sum"]["experts"] is None


def test_a_mixture_is_drawn_back_as_in_python():
    manifest = {"experts": {"shape": [1, 3], "matrices": MATRICES, "vectors": {"a": [4.0, -4.0, 1.0]}}}
    row = page_design(AgentDesign(experts={"a": 2.0}), manifest)["design"]["experts"]
    assert row == [5.0, -5.0, 1.25]


def test_what_is_said_about_a_design():
    assert (told(AgentDesign()), think_of(AgentDesign(think="off")), left_out(AgentDesign())) == ("", "off", [])
    assert (
        told(AgentDesign(samples=3, temperature=1.0, calculated="yes"))
        == "up to 3 attempts and a vote; calculated thoughts"
    )
    assert told(ROUTED) == "up to 5 attempts and a vote; 2 kinds of question with a way of their own; experts a, b"
    assert think_of(ROUTED) is None
    assert len(rows_of(ROUTED)) == 3
    pruned = AgentDesign(routes={"sum": AgentDesign(pruning="half", samples=2, temperature=1.0)})
    assert left_out(pruned) == ["pruning"]
