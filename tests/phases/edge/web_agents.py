"""A tiny ternary agent with tools and thoughts that knows a few dialogues by heart, and what it says, by PyTorch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tests.agent.dialogues import CHAIN, DIALOGUES, RECORDS, documents, taught

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.web_parity import Answer, Asked, model_answer

MUSING = ("Count to three.", "one two", "one two three: ½ é 你 🙂")
QUESTIONS = [*DIALOGUES, CHAIN[0], MUSING[0], "Greet me.", "Say something else, please.", "naïve 🙂 <|end|> <think> ٣"]


def agent_folder(folder: Path) -> Path:
    """A checkpoint folder."""
    learned = [*documents(), Document.chat([("user", MUSING[0]), ("thought", MUSING[1]), ("assistant", MUSING[2])])]
    tokenizer = train_tokenizer([document.text for document in learned] * 4, 400)
    add_thoughts(tokenizer)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CognateConfig(vocab_size=len(tokenizer), short_convolution=3, sliding_window=32, global_every=8, **shape)
    model = CognateForCausalLM(config)
    selection = select(model, tokenizer)
    for linear in selection.linears.values():
        TernaryLinear.from_linear(linear, Layout(0))
    taught(tokenizer, learned, 130, model)
    finish_student(model, selection)
    save_ternary(model, tokenizer, folder, selection, {"phase": "baking", "persona": "You are <b>Salt</b>."})
    world_toolbox(Knowledge(RECORDS)).save(folder)
    return folder


@cache
def loaded(folder: Path) -> Asked:
    """The agent of a folder, with its design."""
    model, tokenizer = load_model(folder)
    return Asked(model, tokenizer, Toolbox.load(folder), AgentDesign.load(folder) or AgentDesign())


def by_torch(folder: Path, question: str) -> Answer:
    """What the agent does with a question."""
    return model_answer(loaded(folder), question)
