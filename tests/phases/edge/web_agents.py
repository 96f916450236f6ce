"""A tiny ternary agent with tools, thoughts, an expert and a design, that knows a few dialogues by heart; and what it
says, by PyTorch."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from tests.agent.dialogues import CHAIN, DIALOGUES, RECORDS, documents, taught

from agent_forge.agent.design import AgentDesign
from agent_forge.agent.dispatch import BASE, fit_dispatcher, question_features
from agent_forge.agent.equipment import with_experts
from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.agent.routes import open_first_pass
from agent_forge.agent.toolbox import Toolbox
from agent_forge.data.documents import Document
from agent_forge.data.tokenizer import add_thoughts, train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import load_model
from agent_forge.model.expert_vectors import Expert, decompose, load_experts, save_experts
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases.edge.web_parity import Answer, Asked, model_answer

MUSING = ("Count to three.", "one two", "one two three: ½ é 你 🙂")
COUNTING = ("Add up 3, 4 and 5.", "3 + 4 = 7, 7 + 5 = 12", "12")
EXAMPLES = [
    ("Find out where Ada Vane lives.", "lookup(town, Ada Vane)", "Aldale", "Aldale."),
    ("It is 14 o'clock. What will the clock show 5 hours later?", "clock(14, 5)", "19", "At 19 o'clock."),
]
"""What the page offers to ask: an agent that does not know them would never stop, and a comparison ends early."""
SUMS = ["Add up 3, 4 and 5.", "Add up 6, 1 and 2.", "Add up 2, 2 and 9."]
PLACES = ["Where does Ada Vane live?", "Where does Bo Lock live?", CHAIN[0]]
QUESTIONS = [
    *DIALOGUES, CHAIN[0], MUSING[0], *SUMS, "Greet me.", "naïve 🙂 <|end|> <think> ٣", "Say something else, please.",
]  # fmt: skip
DESIGN = AgentDesign(
    routes={
        "sum": AgentDesign(
            samples=4, temperature=0.9, greedy_first=False, calculated="in turn", enough=2.0, thought_budget=40,
            checks={"arithmetic": "reject", "covered": "doubt", "concluded": "doubt"},
        ),
        "place": AgentDesign(
            tools="after", samples=2, temperature=1.2, experts={"twist": 1.0}, checks={"quoted": "doubt"}
        ),
    }
)  # fmt: skip
"""One attempt for most questions; drawn attempts with results put into thoughts for sums; an expert for places."""


def agent_folder(folder: Path) -> Path:
    """A checkpoint folder."""
    learned = documents()
    for ask, call, result, answer in EXAMPLES:
        said = [("user", ask), ("assistant", call), ("user", f"result: {result}"), ("assistant", answer)]
        learned.append(Document.chat(said))
    learned.append(Document.chat([("user", "Who are you?"), ("assistant", "Salt.")]))
    for ask, thought, answer in (MUSING, COUNTING):
        learned.append(Document.chat([("user", ask), ("thought", thought), ("assistant", answer)]))
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


def designed_folder(folder: Path) -> Path:
    """The same with `DESIGN`, an expert and the classifier of questions."""
    agent_folder(folder)
    model, tokenizer = load_model(folder)
    asked = {
        BASE: [question for question in QUESTIONS if question not in (*SUMS, *PLACES)],
        "sum": SUMS,
        "place": PLACES,
    }
    features = {name: question_features(model, tokenizer, each) for name, each in asked.items()}
    fit_dispatcher(features).save(folder)
    basis = decompose(model, 8)
    generator = torch.Generator().manual_seed(0)
    z = {name: 1 + 0.4 * torch.randn(len(each.singular), generator=generator) for name, each in basis.factors.items()}
    save_experts(
        folder, [Expert("twist", {name: each.half().float() for name, each in z.items()}, basis.digest)], basis
    )
    DESIGN.save(folder)
    return folder


@cache
def loaded(folder: Path) -> Asked:
    """The agent of a folder, with its design."""
    model, tokenizer = load_model(folder)
    design = AgentDesign.load(folder) or AgentDesign()
    recognise = open_first_pass(folder, model, tokenizer, design)
    experts, _ = load_experts(folder, model)
    return Asked(model, tokenizer, Toolbox.load(folder), design, first_pass=recognise, equip=with_experts(experts))


def by_torch(folder: Path, question: str) -> Answer:
    """What the agent does with a question."""
    return model_answer(loaded(folder), question)
