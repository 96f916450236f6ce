"""An exam about tools: questions with one right answer, asked without a prompt, calls carried out.

Half of the questions are about the world that the agent knows, half about one whose people occur nowhere in training.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from agent_forge.agent.calls import parse_call
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.runtime import converse_all
from agent_forge.agent.toolbox import Toolbox
from agent_forge.agent.transcript import Transcript
from agent_forge.data.corpora import Corpus
from agent_forge.data.documents import Split
from agent_forge.data.practice_dialogues import Exchange, exchanges
from agent_forge.data.world_knowledge import world_records
from agent_forge.model.decoder import Decoder

Worlds = Sequence[tuple[int, Toolbox]]


class _Question(Protocol):
    @property
    def ask(self) -> str: ...


_Asked = TypeVar("_Asked", bound=_Question)

_REPEATS = 400
"""So many known questions in a row, and a world is taken to have no others."""
_UNSEEN_WORLD = 1_000_003
"""Added to the seed: a world whose people occur nowhere in training."""


def worlds_of(levels: Sequence[int], corpus: Corpus, seed: int, tools: Collection[str]) -> list[tuple[int, Toolbox]]:
    """The agent's own world (that of the corpus where it has one) and one that nothing was trained on."""
    own = corpus.world(seed)
    return [
        (world, world_toolbox(Knowledge(world_records(world, max(levels)))).only(tools))
        for world in (own, own + _UNSEEN_WORLD)
    ]


@dataclass(frozen=True)
class ToolScores:
    """What became of some questions.

    Attributes:
        asked: the questions.
        transcripts: what the model did.
        well_formed: a first call that the tool accepted, for each question that needs a tool.
        right_tool: a first call of the right tool, for the same.
        right: the right words in the last answer, for each question; without calls where none is needed.
        no_call: no call, for each question that needs none.
    """

    asked: list[Exchange]
    transcripts: list[Transcript]
    well_formed: list[bool]
    right_tool: list[bool]
    right: list[bool]
    no_call: list[bool]

    def figures(self) -> dict[str, float]:
        """Shares by name; one that nothing was asked for is left out."""
        needing = [ok for ok, exchange in zip(self.right, self.asked, strict=True) if exchange.steps]
        rows = {
            "tools_well_formed": self.well_formed,
            "tools_right_tool": self.right_tool,
            "tools_right_answer": needing,
            "no_call_when_none_needed": self.no_call,
        }
        for name in sorted({exchange.tool for exchange in self.asked} - {"none"}):
            pairs = zip(self.right, self.asked, strict=True)
            rows[f"tool/{name}"] = [ok for ok, exchange in pairs if exchange.tool == name]
        return {name: sum(values) / len(values) for name, values in rows.items() if values}


def ask_tools(
    model: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    toolbox: Toolbox,
    asked: Sequence[Exchange],
    *,
    answer_tokens: int,
    prompted: bool = False,
    reference: Toolbox | None = None,
    batch_tokens: int = 8192,
) -> ToolScores:
    """Asks each question once, with greedy decoding; calls are carried out.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        toolbox: what it may call.
        asked: the questions; those that the index cannot answer are left out.
        answer_tokens: tokens of a turn.
        prompted: whether the list of tools is in context.
        reference: tools that decide what is right; None = ``toolbox``. With more tools than that, questions to a tool
            that is missing still count, as wrong.
        batch_tokens: tokens in a batch at most.
    """
    judge = toolbox if reference is None else reference
    known = [(exchange, core) for exchange in asked if (core := expected(exchange, judge)) is not None]
    questions = [exchange for exchange, _ in known]
    found = converse_all(
        model, tokenizer, toolbox, [e.ask for e in questions],
        max_tokens=answer_tokens, prompted=prompted, batch_tokens=batch_tokens,
    )  # fmt: skip
    well_formed, right_tool, right, no_call = [], [], [], []
    for (exchange, core), transcript in zip(known, found, strict=True):
        results = [turn for turn in transcript.turns if turn.kind == "result"]
        holds = says(transcript.answer, core)
        if exchange.steps:
            first = parse_call(transcript.calls[0]) if transcript.calls else None
            well_formed.append(bool(results) and bool(results[0].ok))
            right_tool.append(first is not None and first.name == exchange.tool)
            right.append(holds and bool(results))
        else:
            no_call.append(not transcript.calls)
            right.append(holds and not transcript.calls)
    return ToolScores(questions, found, well_formed, right_tool, right, no_call)


def expected(exchange: Exchange, toolbox: Toolbox) -> str | None:
    """The words of a right answer with this toolbox; None where its index cannot answer the question."""
    for call, result in exchange.steps:
        parsed = parse_call(call)
        if parsed is None or parsed.name not in toolbox:
            return None
        told = toolbox.call(parsed)
        if not told.ok or (told.text != result and len(exchange.steps) > 1):
            return None
        if told.text != result:
            return told.text
    return exchange.core


def says(answer: str, core: str) -> bool:
    """Whether an answer holds these words as whole words, in any case; −10 is not 10."""
    return re.search(rf"(?<![\w-]){re.escape(core)}(?!\w)", answer, re.IGNORECASE) is not None


def questions_about(
    worlds: Sequence[tuple[int, Toolbox]], levels: Sequence[int], tools: Sequence[str], split: Split, count: int
) -> list[tuple[Toolbox, list[Exchange]]]:
    """Questions of a split about the people of each world, evenly; one in four at least needs no tool.

    None is asked twice: what one lookup asks of a few people would soon repeat, and a repeated answer is no evidence.
    Where a world has no more questions there are fewer.
    """
    made = []
    for world, toolbox in worlds:
        wanted = -(-count // len(worlds))
        idle = max(1, wanted // 4)
        mixed = distinct(exchanges(97, levels, split, world=world, tools=tools), wanted - idle)
        made.append((toolbox, [*mixed, *distinct(exchanges(91, levels, split, world=world, tools=()), idle)]))
    return made


def distinct(source: Iterable[_Asked], count: int) -> list[_Asked]:
    """The first ``count`` different questions; fewer where nothing but known ones comes for long."""
    found: dict[str, _Asked] = {}
    repeated = 0
    for one in source if count else ():
        repeated = repeated + 1 if one.ask in found else 0
        found.setdefault(one.ask, one)
        if len(found) >= count or repeated > _REPEATS:
            break
    return list(found.values())


def shown(scores: Sequence[ToolScores], count: int = 10) -> list[dict[str, Any]]:
    """Dialogues for the report, as they came, tools in turn: nothing is picked for being right."""
    rows = [
        {"question": e.ask, "tool": e.tool, "right": ok, **transcript.to_json()}
        for score in scores
        for e, transcript, ok in zip(score.asked, score.transcripts, score.right, strict=True)
    ]
    by_tool: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        # Seconds differ from run to run; what is attached does not.
        row["turns"] = [{key: value for key, value in turn.items() if key != "seconds"} for turn in row["turns"]]
        by_tool.setdefault(str(row["tool"]), []).append(row)
    turns = [group[place] for place in range(count) for group in by_tool.values() if place < len(group)]
    return turns[:count]


def merged(scores: Sequence[ToolScores]) -> ToolScores:
    """The scores of several worlds as one."""
    fields = ("asked", "transcripts", "well_formed", "right_tool", "right", "no_call")
    return ToolScores(*[[row for score in scores for row in getattr(score, name)] for name in fields])
