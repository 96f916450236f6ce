"""Tools inside the curriculum: the worked calls can be run, and the model's are."""

from itertools import pairwise

from agent_forge.agent.calls import parse_call
from agent_forge.data.documents import Document, Task
from agent_forge.model.checkpoint import load_model
from agent_forge.phases.forge.examiner import Examiner
from agent_forge.phases.forge.questions import Question, Questions
from agent_forge.phases.forge.tool_dialogues import OwnWorlds, ToolRoom, _agreeing, thinking, wants_tools


def test_every_worked_call_gives_its_worked_result():
    room = ToolRoom(0, 10)
    calls = 0
    for level in (1, 4, 10):
        for question in Questions(0, ("tools",)).draw(level, "train", 60)[0]:
            assert wants_tools(question)
            box = OwnWorlds(room.toolbox, [question])
            turns = question.worked.turns
            for (_, said), (role, heard) in pairwise(turns[1:]):
                if role == "user":
                    call = parse_call(said)
                    assert call is not None
                    assert box.call(call).turn() == heard, (said, heard)
                    calls += 1
    assert calls > 100


def test_a_model_that_cannot_call_is_not_right(folders):
    model, tokenizer = load_model(folders / "model")
    questions = Questions(0, ("tools", "drills"))
    asked = questions.draw(1, "train", 6)[0]
    right = Examiner(model, tokenizer, questions, 8).right(asked)
    assert right.shape == (6,)
    assert ToolRoom(0, 1).right(model, tokenizer, [], 8) == []


def test_steps_become_a_thought_and_nothing_else_changes():
    worked = Document.chat(
        (("user", "2 + 3 + 4 = ?"), ("assistant", "2 + 3 = 5\n5 + 4 = 9\nThe answer is 9.")), "drills", 4
    )
    found = thinking(worked)
    assert found.turns == (
        ("user", "2 + 3 + 4 = ?"), ("thought", "2 + 3 = 5\n5 + 4 = 9"), ("assistant", "The answer is 9."),
    )  # fmt: skip
    assert found.level == 4
    bare = Document.chat((("user", "q"), ("assistant", "The answer is 9.")))
    assert thinking(bare) == bare
    other = Document.chat((("user", "q"), ("assistant", "clock(1, 2)"), ("user", "result: 3"), ("assistant", "At 3.")))
    assert thinking(other) == other


def _asked(person, town):
    turns = (("user", f"Where is {person}?"), ("assistant", f"lookup(town, {person})"), ("user", f"result: {town}"),
             ("assistant", f"It is {town}."))  # fmt: skip
    return Question(Task(turns[0][1], turns[1][1], "tools/call", 1, "tools"), Document.chat(turns), f"{person}{town}")


def test_questions_whose_worlds_differ_are_asked_apart():
    questions = [_asked("Ann", "Oslo"), _asked("Ben", "Rome"), _asked("Ann", "Bern"), _asked("Ann", "Oslo")]
    assert _agreeing(questions) == [[0, 1, 3], [2]]
    box = OwnWorlds(ToolRoom(0, 1).toolbox, [questions[0], questions[1]])
    assert box.call(parse_call("lookup(town, Ann)")).turn() == "result: Oslo"
    assert box.call(parse_call("calculator(2 + 3)")).text == "5"
    stranger = parse_call("lookup(town, Nobody Atall)")
    assert box.call(stranger).text == ToolRoom(0, 1).toolbox.call(stranger).text
