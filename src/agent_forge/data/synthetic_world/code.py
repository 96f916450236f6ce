"""Small programs with what they print, in the language of `tiny_language`.

Programs that run too long or print too much are thrown away, so that every output shown is the true one.
"""

from __future__ import annotations

import random

from agent_forge.data.documents import Document, Task
from agent_forge.data.synthetic_world.tiny_language import Node, Stopped, render, run
from agent_forge.data.synthetic_world.words import Item, key_of, stream

_NUMBERS = [
    "n",
    "x",
    "y",
    "count",
    "total",
    "size",
    "age",
    "price",
    "width",
    "height",
    "steps",
    "score",
    "left",
    "right",
    "start",
    "stop",
    "speed",
    "weight",
    "depth",
]
_LISTS = ["items", "values", "coins", "marks", "stones", "lengths", "points", "row", "ages", "rooms"]
_WORDS = [
    "amber",
    "barley",
    "copper",
    "dune",
    "ember",
    "fern",
    "grove",
    "harbor",
    "iris",
    "jade",
    "kettle",
    "lantern",
    "meadow",
    "nickel",
    "oak",
    "pebble",
    "quill",
    "raven",
    "salt",
    "thistle",
]
_FUNCTIONS = ["grow", "shrink", "fold", "mix", "step", "turn", "press", "weigh", "climb", "measure", "blend", "shift"]


def program(seed: int, number: int, level: int) -> Item:
    """Program ``number`` of this seed with its output, as a question, a listing or a described function."""
    rng = stream("code", seed, number, level)
    while True:
        tree = Writer(rng, level).write()
        try:
            output = run(tree)
        except (Stopped, ValueError):
            continue
        if output:
            break
    text = render(tree)
    key = key_of("code", text)
    question = rng.choice(("What does this program print?", "What is the output?", "Run this program in your head."))
    task = Task(f"{question}\n\n{text}", output, "code/output", level, "code")
    if rng.random() < 0.25:
        shown = "\n".join(f"# {line}" for line in output.split("\n"))
        return Item(Document(f"{text}\n# prints:\n{shown}", "code", level), (task,), key)
    return Item(Document.chat((("user", task.prompt), ("assistant", output)), "code", level), (task,), key)


class Writer:
    """Writes a random program of a level: what it may use grows with the level."""

    def __init__(self, rng: random.Random, level: int) -> None:
        self.rng, self.level = rng, level
        self.numbers: list[str] = []
        self.lists: list[str] = []
        self.functions: list[tuple[str, int]] = []
        self.spare = rng.sample(_NUMBERS, len(_NUMBERS))

    def write(self) -> list[Node]:
        """A whole program, ending with a print."""
        tree: list[Node] = []
        for _ in range((self.level >= 5) + (self.level >= 9)):
            tree.append(self.function())
        for _ in range(1 + (self.level >= 2)):
            tree.append(self.fresh_number())
        if self.level >= 3 and self.rng.random() < 0.7:
            tree.append(self.fresh_list())
        for _ in range(1 + (2 * self.level) // 3):
            tree += self.statement(0)
        tree.append(self.print())
        return tree

    def fresh_number(self) -> Node:
        """A new number."""
        name = self.spare.pop()
        node = ("set", name, ("num", self.rng.randint(1, 9 + 3 * self.level)))
        self.numbers.append(name)
        return node

    def fresh_list(self) -> Node:
        """A new list of three numbers or more."""
        name = self.rng.choice([name for name in _LISTS if name not in self.lists])
        values = [
            ("num", self.rng.randint(1, 9 + 3 * self.level)) for _ in range(self.rng.randint(3, 3 + self.level // 2))
        ]
        self.lists.append(name)
        return ("set", name, ("list", *values))

    def small(self) -> Node:
        """A small number."""
        return ("num", self.rng.randint(2, 5 + self.level))

    def expression(self, depth: int = 0) -> Node:
        """An expression over what is known."""
        rng, pick = self.rng, self.rng.random()
        if pick < 0.3 or not self.numbers:
            return self.small()
        if pick < 0.6 or depth > 1:
            return ("var", rng.choice(self.numbers))
        if self.functions and pick < 0.72:
            name, count = rng.choice(self.functions)
            return ("call", name, *(self.expression(depth + 1) for _ in range(count)))
        if self.lists and pick < 0.82:
            walked: Node = ("var", rng.choice(self.lists))
            return rng.choice(
                (
                    ("at", walked, ("num", rng.randint(0, 2))),
                    ("call", "len", walked),
                    ("call", rng.choice(("sum", "max", "min")), walked),
                )
            )
        op = rng.choice(("+", "-", "*") if self.level < 3 else ("+", "-", "*", "//", "%"))
        right = self.small() if op in ("*", "//", "%") else self.expression(depth + 1)
        return ("bin", op, self.expression(depth + 1), right)

    def test(self) -> Node:
        """A condition."""
        op = self.rng.choice(("<", ">", "<=", ">=", "==", "!="))
        left: Node = ("var", self.rng.choice(self.numbers))
        if self.rng.random() < 0.3:
            return (
                "bin",
                self.rng.choice(("==", "!=")),
                ("bin", "%", left, ("num", self.rng.randint(2, 4))),
                ("num", self.rng.randint(0, 1)),
            )
        return ("bin", op, left, self.expression(1))

    def statement(self, depth: int) -> list[Node]:
        """One statement, as a list because some need two."""
        rng = self.rng
        kinds = (
            ["set", "add"] + ["if"] * (self.level >= 2) + ["for"] * (self.level >= 3) + ["while"] * (self.level >= 5)
        )
        kinds += ["each", "push"] * (self.level >= 4 and bool(self.lists))
        kind = rng.choice(kinds if depth < 1 + self.level // 5 else kinds[:2])
        if kind == "set":
            return self.set_statement()
        if kind == "add":
            return [("add", rng.choice(self.numbers), rng.choice("+-+"), self.expression(1))]
        if kind == "if":
            other = self.inner(depth) if rng.random() < 0.6 else []
            return [("if", self.test(), self.inner(depth), other)]
        if kind == "push":
            return [("push", rng.choice(self.lists), self.expression(1))]
        if kind == "while":
            name = rng.choice(self.numbers)
            shrink = (
                ("set", name, ("bin", "//", ("var", name), ("num", 2)))
                if rng.random() < 0.5
                else ("add", name, "-", self.small())
            )
            return [
                (
                    "while",
                    ("bin", ">", ("var", name), ("num", rng.randint(1, 6))),
                    [*self.inner(depth, keep=name), shrink],
                )
            ]
        loop = rng.choice([name for name in ("i", "j", "k") if name not in self.numbers])
        held, lists = list(self.numbers), list(self.lists)
        walked = rng.choice(lists) if kind == "each" else ""
        self.lists = [name for name in lists if name != walked]  # a list that grows while it is walked never ends
        self.numbers.append(loop)
        body = self.inner(depth)
        self.numbers, self.lists = held, lists
        if kind == "each":
            return [("each", loop, ("var", walked), body)]
        return [("for", loop, ("num", rng.randint(0, 2)), ("num", rng.randint(3, 4 + self.level // 2)), body)]

    def set_statement(self) -> list[Node]:
        """A new or changed number."""
        if self.spare and (len(self.numbers) < 3 or self.rng.random() < 0.4):
            value = self.expression()
            name = self.spare.pop()
            self.numbers.append(name)
            return [("set", name, value)]
        changed = [name for name in self.numbers if len(name) > 1 or name in _NUMBERS]
        return [("set", self.rng.choice(changed or self.numbers), self.expression())]

    def inner(self, depth: int, keep: str = "") -> list[Node]:
        """Statements inside another; names made there are not known outside, because they may never be made."""
        held = list(self.numbers)
        self.numbers = [name for name in self.numbers if name != keep] or list(held)
        body = [node for _ in range(self.rng.randint(1, 1 + self.level // 4)) for node in self.statement(depth + 1)]
        self.numbers = held
        return body

    def function(self) -> Node:
        """A function that always ends."""
        rng = self.rng
        name = rng.choice([name for name in _FUNCTIONS if name not in dict(self.functions)])
        arguments = rng.sample(["a", "b", "c", "d"], rng.randint(1, 2 + (self.level >= 8)))
        outer, self.numbers = self.numbers, list(arguments)
        body: list[Node] = []
        if rng.random() < 0.5:
            body.append(("if", self.test(), [("return", self.expression())], []))
        if self.level >= 8 and rng.random() < 0.4:
            # recursion on a smaller first argument always ends
            first = arguments[0]
            again = (
                "call",
                name,
                ("bin", "-", ("var", first), self.small()),
                *(("var", other) for other in arguments[1:]),
            )
            body = [("if", ("bin", "<", ("var", first), ("num", 2)), [("return", self.expression(2))], [])]
            body.append(("return", ("bin", rng.choice("+-"), self.expression(2), again)))
        else:
            body.append(("return", ("bin", rng.choice("+-*"), ("var", rng.choice(arguments)), self.expression(1))))
        self.numbers = outer
        self.functions.append((name, len(arguments)))
        return ("def", name, tuple(arguments), body)

    def print(self) -> Node:
        """The statement that shows the result."""
        rng = self.rng
        values: list[Node] = [
            ("var", name) for name in rng.sample(self.numbers, min(len(self.numbers), rng.randint(1, 2)))
        ]
        if self.lists and rng.random() < 0.5:
            values.append(("var", rng.choice(self.lists)))
        if rng.random() < 0.3:
            values.insert(0, ("str", rng.choice(_WORDS)))
        return ("print", *values)
