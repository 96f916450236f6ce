"""What can be told of an answer without knowing the right one: six checks of how it came about.

Each looks at the question and the steps of one attempt. None is proof; together they sort attempts. Ideas: the steps
of a thought are verified (Lightman et al. 2023, arXiv:2305.20050), here by the agent's calculator instead of a
model; what a call says must be grounded in what was read (as the faithfulness of summaries, Maynez et al. 2020,
arXiv:2005.00661).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from agent_forge.agent.calls import Call
from agent_forge.agent.thought_calculator import EQUATION, calculator_of
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript

_NUMBER = re.compile(r"\d+")
_NAME_OR_NUMBER = re.compile(r"[A-Z]\w+|\d+")


def words(text: str) -> list[str]:
    """Words and numbers, in lower case, without anything between them."""
    return re.findall(r"[^\W\d_]+|\d+", text.casefold())


def failed_checks(question: str, transcript: Transcript, toolbox: Toolbox | None) -> frozenset[str]:
    """Names of the checks that an attempt fails."""
    return frozenset(name for name, check in CHECKS.items() if not check(question, transcript, toolbox))


def _arithmetic(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """The calculator agrees with every equation of a thought; always so for an agent without one."""
    name = calculator_of(toolbox)
    if toolbox is None or name is None:
        return True
    for text in _texts(transcript, "thought"):
        for left, sign, right, said in EQUATION.findall(text):
            result = toolbox.call(Call(name, f"{left} {sign} {right}"))
            if not result.ok or result.text != said:
                return False
    return True


def _covered(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """Every number of the question is used, as often as it stands there; always so where nothing was worked out."""
    worked = _texts(transcript, "thought", "call")
    if not worked:
        return True
    return not Counter(_NUMBER.findall(question)) - Counter(_NUMBER.findall(" ".join(worked)))


def _grounded(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """Names and numbers in calls were read before: in the question or in an earlier result."""
    known = set(words(question))
    for turn in transcript.turns:
        if turn.kind == "result":
            known |= set(words(turn.text))
        if turn.kind == "call":
            said = _NAME_OR_NUMBER.findall(turn.text.partition("(")[2])
            if not known.issuperset(words(" ".join(said))):
                return False
    return True


def _quoted(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """The answer holds the last result, and no call went wrong."""
    results = [turn for turn in transcript.turns if turn.kind == "result"]
    if not results:
        return True
    wanted = rf"(?<![\w-]){re.escape(results[-1].text)}(?!\w)"
    return all(turn.ok for turn in results) and re.search(wanted, transcript.answer) is not None


def _fresh(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """No step of a thought says again what another one said."""
    for text in _texts(transcript, "thought"):
        steps = [step.strip() for step in re.split(r"[,;\n]", text) if step.strip()]
        if len(set(steps)) < len(steps):
            return False
    return True


def _concluded(question: str, transcript: Transcript, toolbox: Toolbox | None) -> bool:
    """The answer ends with the word that the thought ended with."""
    thoughts = _texts(transcript, "thought")
    return not thoughts or words(thoughts[-1])[-1:] == words(transcript.answer)[-1:]


def _texts(transcript: Transcript, *kinds: str) -> list[str]:
    return [turn.text for turn in transcript.turns if turn.kind in kinds]


CHECKS: dict[str, Callable[[str, Transcript, Toolbox | None], bool]] = {
    "arithmetic": _arithmetic,
    "covered": _covered,
    "grounded": _grounded,
    "quoted": _quoted,
    "fresh": _fresh,
    "concluded": _concluded,
}
"""Name → whether an attempt passes."""
