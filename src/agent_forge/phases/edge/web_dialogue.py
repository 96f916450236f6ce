"""How the page writes a conversation: what `agent_forge.agent.dialogue.Dialogue` does, as data that a page can follow.

A chat template is a program. The page does not run it: what it writes around the words of user and assistant is read
off a few conversations, and a template that writes anything else into other conversations is refused. What it says
about the day is that of the export.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from transformers import PreTrainedTokenizerBase

from agent_forge.contract import END_THINK, THINK
from agent_forge.data.tokenizer import has_marks, mark_ids, start_ids
from agent_forge.errors import HandoffError

_ROLES = ("user", "assistant")
_TRIALS = (
    ["One?"],
    ["One?", "Two.", "Three?"],
    ["One?", "Two.", "result: 3", "Four.\n\nFive.", "result: error: no", "six(7)", "Eight, ½ 你?"],
    ["  One? \n", " Two.\n", "\n Three? "],
)


def dialogue(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The style of a conversation and the token ids that it needs.

    Returns:
        ``style`` (marks, template or lines) and ``opening`` and ``closing`` of a thought (None for both where the
        tokenizer has none); with marks the ids ``bos``, ``end``, ``user``, ``assistant``; with a template its
        ``around`` and ``trim`` (`linear_template`) and ``specials``, the tokens that are taken out of what others say;
        with lines ``bos``.

    Raises:
        HandoffError: a chat template of another form, or a tokenizer that is no tokenizer.json.
    """
    if not tokenizer.is_fast:
        raise HandoffError("the page reads tokenizer.json, and this tokenizer has none; use a fast tokenizer")
    vocabulary = tokenizer.get_vocab()
    ids: dict[str, Any] = {"opening": vocabulary.get(THINK), "closing": vocabulary.get(END_THINK)}
    if None in ids.values():
        ids = dict.fromkeys(ids)
    if has_marks(tokenizer):
        names = ("bos", "end", "user", "assistant")
        return ids | {"style": "marks"} | dict(zip(names, mark_ids(tokenizer), strict=True))
    if tokenizer.chat_template:
        specials = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        return ids | {"style": "template", "specials": specials} | linear_template(tokenizer)
    start = start_ids(tokenizer)
    return ids | {"style": "lines", "bos": start[0] if start else None}


def linear_template(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a chat template writes around the words of a conversation that user and assistant take turns in.

    Returns:
        ``around``: what stands before the first words, between user and assistant, between assistant and user, and
        where the assistant speaks next; ``trim``: whether blank space around the words is taken off.

    Raises:
        HandoffError: it writes something else into one of the trial conversations.
    """
    said = ["qxwords", "qyanswer", "qzmore"]
    shown = _rendered(tokenizer, said)
    found = re.fullmatch("(.*)".join(["", *map(re.escape, said), ""]), shown, re.DOTALL)
    around = list(found.groups()) if found else ["", "", "", ""]
    fits = [
        trim for trim in (False, True) if all(_written(t, around, trim) == _rendered(tokenizer, t) for t in _TRIALS)
    ]
    if not found or not fits:
        raise HandoffError(
            "this tokenizer's chat template does more than put something around the words of each turn, and the page "
            "has no form for that; use --to onnx-web with a runner that runs the template"
        )
    return {"around": around, "trim": fits[0]}


def _rendered(tokenizer: PreTrainedTokenizerBase, said: Sequence[str]) -> str:
    messages = [{"role": role, "content": words} for role, words in zip(cycle(_ROLES), said, strict=False)]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _written(said: Sequence[str], around: Sequence[str], trim: bool) -> str:
    """As `agent.js` writes it."""
    before, to_assistant, to_user, last = around
    text = before
    for place, words in enumerate(said):
        text += words.strip() if trim else words
        text += last if place == len(said) - 1 else to_user if place % 2 else to_assistant
    return text
