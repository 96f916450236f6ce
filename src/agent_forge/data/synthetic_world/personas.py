"""Personas, and conversations in which one is kept: a prompt in a system turn, followed in every answer.

Personas are made up from words, so that what a prompt asks for has to be copied from it. The questions are those of
`tools`; all questions of a conversation belong to one split.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from agent_forge.data.documents import Document, Turn
from agent_forge.data.synthetic_world.tools import tool_question
from agent_forge.data.synthetic_world.words import ANIMALS, COLOURS, LOOKS, NAMES, THINGS, TRADES, Item, stream

PLAIN_FRACTION = 0.6
"""Share of the conversations that are one question to nobody in particular."""
USUAL_FRACTION = 0.6
"""Share of openings and closings that are common phrases."""
_PERSONA = re.compile(r'You begin every answer with "(.+?)" and end it with the words (.+)$', re.MULTILINE)
_OPENINGS = (
    "Aye", "Well", "Indeed", "Ha", "Oh", "Hello", "Listen", "Look", "Friend", "Dear friend", "My dear", "Good day",
    "Let me see", "Hear me", "Of course", "Yes", "Ah", "Behold", "Mind you", "Trust me", "Ho", "Now", "So", "Gladly",
    "With pleasure", "At once", "Quickly", "Slowly now", "Brave one", "Little one", "Old friend", "By the river",
    "By my tools", "In short", "In truth", "Upon my word", "As I said", "Thank you", "Very well", "Good question",
)  # fmt: skip
_CLOSINGS = (
    "Fair winds", "Good luck", "Farewell", "So it is", "That is all", "Be well", "Take care", "Ask again", "I am sure",
    "My captain", "My friend", "Safe travels", "Mark my words", "And no more", "As always", "Sleep well", "Eat well",
    "Stay warm", "Stay strong", "With respect", "Your servant", "Until tomorrow", "Trust the stars", "Mind the river",
    "Keep the secret", "Tell nobody", "Smile a little", "Work hard", "Walk slowly", "Thank you", "Nothing else",
    "And that is true", "So says the book", "Time is gold", "Good night", "Good day",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Persona:
    """Who speaks, and how it shows.

    Attributes:
        name: of the one who speaks.
        trade: what they are.
        opening: words before every answer.
        closing: words after it.
    """

    name: str
    trade: str
    opening: str
    closing: str

    @property
    def prompt(self) -> str:
        """The prompt that asks for this persona."""
        return (
            f"You are {self.name}, the {self.trade}. "
            f'You begin every answer with "{self.opening}" and end it with the words {self.closing}'
        )

    def says(self, answer: str) -> str:
        """An answer in the manner of this persona."""
        return f"{self.opening} {answer} {self.closing}"

    @classmethod
    def of(cls, prompt: str) -> Persona | None:
        """The persona that a prompt of this form asks for, None where it has another form."""
        found = _PERSONA.search(prompt)
        who = re.match(r"You are (\w+), the (\w+)\.", prompt)
        return cls(*(who.groups() if who else ("", "")), *found.groups()) if found else None


def persona(rng: random.Random) -> Persona:
    """A persona made up of random words."""
    opening, closing = _phrase(rng, _OPENINGS), _phrase(rng, _CLOSINGS)
    return Persona(rng.choice(NAMES)[0], rng.choice(TRADES), f"{opening}!", f"{closing}.")


def _phrase(rng: random.Random, usual: Sequence[str]) -> str:
    """Something that people say, or that nobody says: the latter cannot be guessed, only copied."""
    if rng.random() < USUAL_FRACTION:
        return rng.choice(usual)
    said = rng.choice(
        (
            rng.choice(NAMES)[0],
            f"{rng.choice(LOOKS)} {rng.choice(THINGS)}",
            f"{rng.choice(COLOURS)} {rng.choice(ANIMALS)}",
        )
    )
    return said[0].upper() + said[1:]


def tool_conversation(seed: int, number: int, level: int) -> Item:
    """Conversation ``number`` of this seed: one question as it is, or up to three to a persona.

    Its key, hence its split, is that of the first question; others of another split are left out.
    """
    rng = stream("conversation", seed, number, level)
    first = tool_question(seed, 3 * number, level)
    if rng.random() < PLAIN_FRACTION:
        return first
    who = persona(rng)
    turns: list[Turn] = [("system", who.prompt)]
    for place in range(rng.choice((1, 1, 2, 3))):
        item = tool_question(seed, 3 * number + place, level)
        if item.split == first.split:
            *others, (role, answer) = item.document.turns
            turns += [*others, (role, who.says(answer))]
    return Item(Document.chat(turns, "tools", level), first.tasks, first.key)
