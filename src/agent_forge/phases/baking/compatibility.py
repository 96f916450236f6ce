"""Which tools may stay: each has to work, and to leave the questions of the others alone.

A tool whose questions are not answered right, or that is called for questions that are not for it, is dropped with
its reasons (premortem PR6); what is left is what the agent gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from agent_forge.agent.calls import parse_call
from agent_forge.agent.transcript import Transcript
from agent_forge.data.practice_dialogues import Exchange


@dataclass(frozen=True)
class Verdict:
    """What was found about one tool.

    Attributes:
        tool: its name.
        accuracy: share of its questions answered right; None if there was none.
        harm: share of the other questions, those without tools included, in which it was called.
        dropped: why it may not stay; empty if it may.
    """

    tool: str
    accuracy: float | None
    harm: float
    dropped: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self)


def judge(
    tools: Sequence[str],
    asked: Sequence[Exchange],
    transcripts: Sequence[Transcript],
    right: Sequence[bool],
    *,
    min_accuracy: float,
    max_harm: float,
) -> list[Verdict]:
    """A verdict on each tool.

    Args:
        tools: names.
        asked: questions.
        transcripts: what was done about each.
        right: whether each was answered right.
        min_accuracy: least share of its questions; a tool that was asked nothing cannot show that it works.
        max_harm: largest share of the other questions in which it may be called.
    """
    called = [{call.name for call in map(parse_call, found.calls) if call} for found in transcripts]
    verdicts = []
    for tool in tools:
        wanted = [tool in {call.partition("(")[0] for call, _ in exchange.steps} for exchange in asked]
        own = [right[n] for n, is_for_it in enumerate(wanted) if is_for_it]
        others = [tool in called[n] for n, is_for_it in enumerate(wanted) if not is_for_it]
        accuracy = sum(own) / len(own) if own else None
        harm = sum(others) / len(others) if others else 0.0
        why = ""
        if accuracy is None:
            why = "no question asked for it"
        elif accuracy < min_accuracy:
            why = f"{accuracy:.0%} of its questions are answered right, {min_accuracy:.0%} are wanted"
        elif harm > max_harm:
            why = f"it is called in {harm:.0%} of the questions that are not for it, {max_harm:.0%} are allowed"
        verdicts.append(Verdict(tool, accuracy, harm, why))
    return verdicts
