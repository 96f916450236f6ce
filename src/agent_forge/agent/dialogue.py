"""A conversation with tools as tokens: what the model reads before each of its turns, and what it said.

Written with the marks of the house tokenizer, else with the tokenizer's chat template, else line by line as documents
are (`agent_forge.data.tokenizer`). What a user or a tool says is data: marks that it spells out are plain text, and
for a foreign chat template they are taken out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from agent_forge.data.tokenizer import encode_texts, has_marks, mark_ids, split_thought, start_ids


class Dialogue:
    """One conversation that grows.

    Args:
        tokenizer: of the model.
        messages: ``{"role": "user" | "assistant" | "system", "content": text}``, the last one by the user.

    Raises:
        ValueError: there is no message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> None:
        if not messages:
            raise ValueError("there is no message to answer")
        self._tokenizer = tokenizer
        self._marked = has_marks(tokenizer)
        self._messages: list[tuple[str, str, list[int] | None]] = []
        for message in messages:
            self._messages.append((message["role"], self._harmless(message["content"]), None))

    def prompt(self) -> list[int]:
        """Token ids up to where the model speaks."""
        if self._marked:
            return self._with_marks()
        if self._tokenizer.chat_template:
            shown = self._tokenizer.apply_chat_template(
                [{"role": role, "content": content} for role, content, _ in self._messages],
                tokenize=False,
                add_generation_prompt=True,
            )
            return list(self._tokenizer.encode(str(shown), add_special_tokens=False))
        text = "".join(
            content + "\n" if role == "assistant" else f"\n{content}\n\n" for role, content, _ in self._messages
        )
        return [*start_ids(self._tokenizer), *encode_texts(self._tokenizer, [text])[0]]

    def hear(self, ids: Sequence[int]) -> tuple[str, str]:
        """The thought (may be empty) and the words of a turn's tokens."""
        return hear(self._tokenizer, ids)

    def add_said(self, ids: Sequence[int], words: str) -> None:
        """The model's turn, kept token by token."""
        self._messages.append(("assistant", words, list(ids)))

    def add_heard(self, text: str) -> None:
        """What the model is told next."""
        self._messages.append(("user", self._harmless(text), None))

    def _with_marks(self) -> list[int]:
        bos, end, user, assistant = mark_ids(self._tokenizer)
        spoken = iter(encode_texts(self._tokenizer, [content for _, content, _ in self._messages]))
        ids = [bos]
        for role, _, said in self._messages:
            content = next(spoken)
            ids += [assistant if role == "assistant" else user, *(content if said is None else said), end]
        return [*ids, assistant]

    def _harmless(self, text: str) -> str:
        if self._marked or not self._tokenizer.chat_template:
            return text  # encoded with its marks as plain text
        for mark in sorted(self._tokenizer.all_special_tokens, key=len, reverse=True):
            text = text.replace(mark, "")
        return text


def hear(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> tuple[str, str]:
    """The thought (may be empty) and the words of a turn's tokens."""
    thought, words = split_thought(tokenizer, ids)
    text = str(tokenizer.decode(words, skip_special_tokens=True))
    if not has_marks(tokenizer):
        text = text.split("\n\n")[0]
    return str(tokenizer.decode(thought, skip_special_tokens=True)).strip(), text.strip()
