"""Failures of phase 6, injected."""

from agent_forge.agent.transcript import Transcript, Turn
from agent_forge.data.practice_dialogues import Exchange
from agent_forge.phases.baking.compatibility import judge

SUM = Exchange("What is 2 + 3?", (("calculator(2 + 3)", "5"),), "It is 5.", 1, "train")
HOUR = Exchange("It is 3. Which hour is it 2 later?", (("clock(3, 2)", "5"),), "At 5 o'clock.", 1, "train")
IDLE = Exchange("Please repeat after me: hello.", (), "hello.", 2, "train")


def test_pr6_a_tool_that_hurts_the_others_is_dropped_with_its_reason():
    clock = Transcript([Turn("call", "clock(2, 3)"), Turn("result", "5"), Turn("answer", "At 5 o'clock.")])
    asked = [SUM, HOUR, IDLE]
    rows = {
        row.tool: row
        for row in judge(
            ["calculator", "clock"], asked, [clock] * 3, [False, True, False], min_accuracy=0.5, max_harm=0.1
        )
    }
    assert rows["clock"].harm == 1.0
    assert "called in 100%" in rows["clock"].dropped
    assert "0% of its questions" in rows["calculator"].dropped
