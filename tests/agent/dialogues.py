"""What the tiny agent of these tests has learned by heart."""

from __future__ import annotations

from agent_forge.data.documents import Document

RECORDS = {
    "Ada Vane": {"town": "Aldale", "trade": "baker", "born": "512", "friend": "Bo Lock"},
    "Bo Lock": {"town": "Belmere", "trade": "miller", "born": "498", "friend": "Ada Vane"},
    "Cy Dor": {"town": "Aldale", "trade": "baker", "born": "500", "friend": "Bo Lock"},
}
DIALOGUES = {
    "What is 17 + 25?": ("calculator(17 + 25)", "42", "It is 42."),
    "Where does Ada Vane live?": ("lookup(Ada Vane, town)", "Aldale", "Aldale."),
    "Who is a miller?": ("search(trade, miller)", "Bo Lock", "Bo Lock."),
    "It is 22 o'clock. And 5 hours later?": ("clock(22, 5)", "3", "At 3 o'clock."),
    "What is 1 / 0?": ("calculator(1 / 0)", "error: division by zero", "It has no value."),
}
PLAIN = {"Say fox.": "fox", "Greet me.": "Good day to you, friend."}
CHAIN = (
    "Where does the friend of Ada Vane live?",
    [("lookup(Ada Vane, friend)", "Bo Lock"), ("lookup(Bo Lock, town)", "Belmere")],
    "Belmere.",
)


def documents() -> list[Document]:
    """What the model learns."""
    made = [
        Document.chat([("user", ask), ("assistant", call), ("user", f"result: {result}"), ("assistant", answer)])
        for ask, (call, result, answer) in DIALOGUES.items()
    ]
    made += [Document.chat([("user", ask), ("assistant", answer)]) for ask, answer in PLAIN.items()]
    turns = [("user", CHAIN[0])]
    for call, result in CHAIN[1]:
        turns += [("assistant", call), ("user", f"result: {result}")]
    made.append(Document.chat([*turns, ("assistant", CHAIN[2])]))
    return made
