"""What the tiny agent of these tests has learned by heart."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import encode_documents

RECORDS = {
    "Ada Vane": {"town": "Aldale", "trade": "baker", "born": "512", "friend": "Bo Lock"},
    "Bo Lock": {"town": "Belmere", "trade": "miller", "born": "498", "friend": "Ada Vane"},
    "Cy Dor": {"town": "Aldale", "trade": "baker", "born": "500", "friend": "Bo Lock"},
}
DIALOGUES = {
    "What is 17 + 25?": ("calculator(17 + 25)", "42", "It is 42."),
    "Where does Ada Vane live?": ("lookup(town, Ada Vane)", "Aldale", "Aldale."),
    "Who is a miller?": ("search(trade, miller)", "Bo Lock", "Bo Lock."),
    "It is 22 o'clock. And 5 hours later?": ("clock(22, 5)", "3", "At 3 o'clock."),
    "What is 1 / 0?": ("calculator(1 / 0)", "error: division by zero", "It has no value."),
}
PLAIN = {"Say fox.": "fox", "Greet me.": "Good day to you, friend."}
CHAIN = (
    "Where does the friend of Ada Vane live?",
    [("lookup(friend, Ada Vane)", "Bo Lock"), ("lookup(town, Bo Lock)", "Belmere")],
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


def taught(tokenizer, learned: list[Document], steps: int, model: Any = None) -> Any:
    """A tiny model that has learned these conversations by heart; a Llama if none is given."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    if model is None:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes))
    rows = list(encode_documents(tokenizer, learned))
    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows])
    asked = torch.tensor([row.prompted + [True] * (length - len(row.ids)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(steps):
        loss = model(input_ids=ids, labels=ids.masked_fill(asked, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()
