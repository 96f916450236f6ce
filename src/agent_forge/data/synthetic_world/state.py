"""The state of a story: who is where, who has what, and what has been told of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from agent_forge.data.synthetic_world.words import COLOURS, LOOKS


@dataclass
class Character:
    """Someone in a story: where they are and what they carry."""

    name: str
    they: str
    role: str
    place: str
    holds: list[str] = field(default_factory=list)


@dataclass
class World:
    """The state of a story, and what has been told so far."""

    rng: random.Random
    places: list[str]
    people: list[Character] = field(default_factory=list)
    lies: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    reasons: list[tuple[str, str, str]] = field(default_factory=list)
    taken: list[tuple[str, str]] = field(default_factory=list)
    given: list[tuple[str, str, str]] = field(default_factory=list)
    used_words: set[str] = field(default_factory=set)
    promised: set[str] = field(default_factory=set)

    def tell(self, *forms: str) -> None:
        """Adds one of these sentences, its first letter in upper case."""
        said = self.rng.choice(forms)
        self.told.append(said[0].upper() + said[1:])

    def fresh(self, words: list[str] | tuple[str, ...]) -> str:
        """A word that this story has not used for a thing or place yet."""
        while True:
            word = self.rng.choice(words)
            if word not in self.used_words:
                self.used_words.add(word)
                return word

    def thing(self, words: list[str] | tuple[str, ...]) -> str:
        """A thing with a look of its own: ``small red bell``."""
        noun = self.fresh(words)
        return (
            f"{self.rng.choice(LOOKS)} {self.rng.choice(COLOURS)} {noun}"
            if self.rng.random() < 0.4
            else (f"{self.rng.choice(COLOURS if self.rng.random() < 0.6 else LOOKS)} {noun}")
        )
