"""Records as documents and tasks: one rule for each shape of record that common data sets have."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from agent_forge.data.documents import Document, Task, Turn
from agent_forge.errors import DataError

_CALCULATOR = re.compile(r"<<[^<>]*>>")
_FINAL = re.compile(r"\n?####\s*(.+?)\s*$")
_TEXT_FIELDS = ("text", "content", "story", "document", "body", "good")


def to_document(
    record: Mapping[str, Any], domain: str, source: str = "the record"
) -> tuple[Document, tuple[Task, ...]]:
    """The document of a record, and the tasks that it holds.

    Shapes, in this order: ``messages`` · ``conversation`` · ``question, choices, label`` · ``question, answer(,
    final)`` · ``context, endings, label`` · ``instruction, input, output`` · ``prompt`` with ``code``,
    ``canonical_solution``, ``completion`` or ``response`` · ``good, bad`` · ``title, text`` · ``text`` (or content,
    story, document, body).

    Args:
        record: field names and values.
        domain: of the document and its tasks.
        source: named in the error.

    Raises:
        DataError: no rule fits; names the fields.
    """
    for rule in _RULES:
        if (found := rule(record, domain)) is not None:
            return found
    fields = ", ".join(sorted(map(str, record))) or "none"
    raise DataError(
        f"{source}: no text found in the fields ({fields}); expected e.g. text, question + answer, or messages"
    )


def _messages(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    messages: Any = record.get("messages")
    if not _rows(messages):
        return None
    turns = [(_role(row.get("role", "user")), _text(row.get("content"))) for row in messages]
    tasks: tuple[Task, ...] = ()
    if functions := record.get("functions"):
        turns[0] = (turns[0][0], f"{turns[0][1]}\nTools: {'; '.join(map(_signature, functions))}")
    if "ground_truth" in record:
        answer = "\n".join(map(_call, record["ground_truth"] or [])) or "No tool fits."
        tasks = (Task(_joined(turns), answer, f"{domain}/call", None, domain),)
        turns.append(("assistant", answer))
    return Document.chat(turns, domain), tasks


def _conversation(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    rows = record.get("conversation", record.get("conversations"))
    if not _rows(rows):
        return None
    turns: list[Turn] = []
    for row in rows:
        said = _text(row.get("text", row.get("value", row.get("content"))))
        turns.append((_role(row.get("speaker", row.get("from", row.get("role", "user")))), said))
    return Document.chat(turns, domain), ()


def _choices(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    if not {"question", "choices", "label"} <= record.keys():
        return None
    choices = tuple(map(_text, record["choices"]))
    answer = choices[int(record["label"])]
    prompt = f"{_text(record['question'])}\nChoices: {'; '.join(choices)}."
    document = Document.chat((("user", prompt), ("assistant", answer)), domain)
    return document, (Task(prompt, answer, "choice", None, domain, choices),)


def _question(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    if not {"question", "answer"} <= record.keys():
        return None
    question, answer = _text(record["question"]), _CALCULATOR.sub("", _text(record["answer"]))
    final = _text(record.get("final"))
    if found := _FINAL.search(answer):
        final = final or found[1]
        answer = answer[: found.start()] + f"\nThe answer is {final}."
    tasks = (Task(question, final, "arithmetic/final", None, domain),) if final else ()
    return Document.chat((("user", question), ("assistant", answer.strip())), domain), tasks


def _endings(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    if not {"context", "endings", "label"} <= record.keys():
        return None
    context, endings = _text(record["context"]), tuple(map(_text, record["endings"]))
    answer = endings[int(record["label"])]
    return Document(f"{context} {answer}", domain), (Task(context, answer, "ending", None, domain, endings),)


def _instruction(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    said = next((record[name] for name in ("output", "response", "completion") if record.get(name)), None)
    if "instruction" not in record or said is None:
        return None
    ask, extra = _text(record["instruction"]), _text(record.get("input"))
    return Document.chat((("user", f"{ask}\n{extra}" if extra else ask), ("assistant", _text(said))), domain), ()


def _prompt(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    if "prompt" not in record:
        return None
    if "canonical_solution" in record:
        return Document(str(record["prompt"]) + str(record["canonical_solution"]), domain), ()
    said = next((record[name] for name in ("code", "completion", "response", "chosen") if record.get(name)), None)
    if said is None:
        return None
    return Document.chat((("user", _text(record["prompt"])), ("assistant", _text(said))), domain), ()


def _plain(record: Mapping[str, Any], domain: str) -> tuple[Document, tuple[Task, ...]] | None:
    name = next((name for name in _TEXT_FIELDS if isinstance(record.get(name), str)), None)
    if name is None:
        return None
    text = str(record[name])
    if name == "good" and isinstance(record.get("bad"), str):
        pair = Task("", text, f"pair/{record.get('term', 'minimal')}", None, domain, (text, str(record["bad"])))
        return Document(text, domain), (pair,)
    title = record.get("title")
    return Document(f"{title}\n\n{text}" if isinstance(title, str) and title.strip() else text, domain), ()


_RULES = (_messages, _conversation, _choices, _question, _endings, _instruction, _prompt, _plain)


def _rows(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(row, Mapping) for row in value)


def _role(name: Any) -> str:
    return "assistant" if str(name).lower() in ("assistant", "gpt", "bot", "model", "2") else "user"


def _text(value: Any) -> str:
    return "" if value is None else value.strip() if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _joined(turns: Sequence[Turn]) -> str:
    return "\n".join(content for _, content in turns)


def _signature(function: Mapping[str, Any]) -> str:
    arguments = (function.get("parameters") or {}).get("properties") or {}
    about = _text(function.get("description"))
    return f"{function.get('name')}({', '.join(arguments)})" + (f" - {about}" if about else "")


def _call(call: Mapping[str, Any]) -> str:
    """``name(argument=value, …)``: arguments list the accepted values, the first is taken; "" means left out."""
    name, arguments = next(iter(call.items()))
    shown = []
    for argument, accepted in arguments.items():
        first = accepted[0] if isinstance(accepted, list) and accepted else accepted
        if first != "":
            shown.append(f"{argument}={json.dumps(first, ensure_ascii=False)}")
    return f"{name}({', '.join(shown)})"
