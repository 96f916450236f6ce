"""The words of the synthetic world, and how its texts choose among them.

Names are put together from syllables, so that there are thousands of them and none has to be found in any other text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent_forge.data.documents import Document, Split, Task, split_of

T = TypeVar("T")


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


SELECTION_FRACTION = TEST_FRACTION = 0.1
"""Share of the items that belongs to each split: large, so that a corpus of 300 kB can still be graded."""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of the world.

    Attributes:
        document: what a model reads.
        tasks: what it can be asked, graded by a program.
        key: sha256 (hex) of what the item is about; its split follows from this alone.
    """

    document: Document
    tasks: tuple[Task, ...]
    key: str

    @property
    def split(self) -> Split:
        """Where the item belongs, in every corpus and for every seed."""
        return split_of(self.key, SELECTION_FRACTION, TEST_FRACTION)


def key_of(*parts: object) -> str:
    """sha256 (hex) of what an item is about."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()


def stream(*parts: object) -> random.Random:
    """A random stream of its own for these parts."""
    return random.Random(int(key_of(*parts)[:16], 16))


def some(rng: random.Random, options: Sequence[T], count: int) -> list[T]:
    """``count`` different ones, in random order."""
    return rng.sample(options, count)


def listed(words: Sequence[str], conjunction: str = "and") -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def a(noun: str) -> str:
    """The noun with its article."""
    return f"an {noun}" if noun[0] in "aeiou" or noun.startswith("honest") else f"a {noun}"


def plural(noun: str, count: int = 2) -> str:
    """The noun in the number of ``count``."""
    if count == 1:
        return noun
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    if noun.endswith("f"):
        return noun[:-1] + "ves"
    return noun + "s"


_FIRST = _words(
    "Ba Be Bri Ca Co Da De Do El Fa Fe Fi Ga Gre Ha He Il Jo Ka Ke La Le Li Ma Me Mi Mo Na Ne No O Pa Pe Pi Ra Re "
    "Ri Ro Sa Se Si So Ta Te Ti To U Va Ve Vi Wa We Wi Ya Yo Za Ze "
)
_SHE = _words("la na ra ssa lia nne rit dda mi sa nia vy lou tta elle ")
_HE = _words("n r ldo ril do mo ck bert nus ro gan vin lek ss tor ")
NAMES = tuple((first + last, "she") for first in _FIRST for last in _SHE) + tuple(
    (first + last, "he") for first in _FIRST for last in _HE
)
HIM = {"she": "her", "he": "him", "they": "them"}
HIS = {"she": "her", "he": "his", "they": "their"}

_OPENING = _words(
    "Al Ar Bel Bren Cor Dal Dun El Fen Gar Gol Hal Hol Iv Kar Kel Lor Mar Mer Nor Ost Pel Quen Ran Rav Sel Stor "
    "Tal Thel Ul Val Ver Wes Yor Zan "
)
_MIDDLE = _words("a e i o u an en or il am is ul ath ev ar ")
_TOWN = _words("dale mere ford wick holm stead haven bridge moor gate port field crest fell ness burgh ")
_RIVER = _words("sel wen nor dra mir tine vash lin rune bel ")


def town_name(rng: random.Random) -> str:
    """The name of a town that does not exist."""
    return rng.choice(_OPENING) + rng.choice(_MIDDLE) + rng.choice(_TOWN)


def river_name(rng: random.Random) -> str:
    """The name of a river that does not exist."""
    return rng.choice(_OPENING) + rng.choice(_MIDDLE) + rng.choice(_RIVER)


def family_name(rng: random.Random) -> str:
    """A surname."""
    return (
        rng.choice(_OPENING)
        + rng.choice(_MIDDLE)
        + rng.choice(["dor", "strom", "ker", "lin", "vane", "well", "mont", "ric", "sby", "ton", "thorn", "lock"])
    )


ANIMALS = _words(
    "fox bear hare owl crow badger otter hedgehog goose goat donkey squirrel mouse frog heron wolf cat dog pony "
    "turtle raven sheep rabbit lizard magpie mole "
)
COLOURS = _words("red blue green yellow white black grey brown silver golden purple orange pink copper ")
LOOKS = _words(
    "small large old shiny dusty smooth heavy little round narrow painted cracked polished plain tiny crooked "
    "bright faded worn pretty strange "
)
THINGS = _words(
    "bell cup drum flute hat scarf ring coin book map kite ball whistle mirror comb button feather shell ribbon "
    "basket jug spoon bowl candle clock doll brush letter necklace glove umbrella violin marble stone statue "
    "bottle pillow blanket hammer compass telescope wheel teapot horn puppet locket spyglass top "
)
FOODS = _words(
    "apple pear plum loaf cake pie cheese carrot cherry turnip honeycomb bun melon pancake fig peach onion walnut "
    "biscuit sausage "
)
LIGHTS = ["lantern", "torch", "candle", "lamp"]
BOXES = ["chest", "cupboard", "trunk", "crate", "cabinet", "drawer", "casket"]
PLACES = _words(
    "mill barn garden market bakery harbour forest cave tower chapel library workshop meadow orchard stable well "
    "bridge kitchen cellar attic inn smithy lighthouse pond hill field boathouse school castle quarry vineyard "
    "greenhouse dairy jetty courtyard windmill hut island schoolhouse weaving-room "
)
PLACE_LOOKS = _words("old new quiet windy sunny stone wooden ruined high low far busy empty hidden cold narrow ")
TRADES = _words(
    "baker weaver smith miller fisher potter carpenter shepherd tailor gardener mason beekeeper clockmaker sailor "
    "painter scribe glassblower cooper tanner brewer healer hunter farmer cook teacher ferryman "
)
TRAITS = _words(
    "kind brave shy curious patient clever careful cheerful stubborn gentle lazy proud quick honest sleepy greedy "
    "thoughtful "
)
GOODS = _words(
    "wool salt amber copper barley glass silk timber honey iron pottery wine leather candles rope paper cider tea "
    "linen saffron "
)
