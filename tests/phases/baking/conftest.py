"""A small corpus and an untrained ternary Cognate: enough to run every step of the phase for real."""

from __future__ import annotations

import pytest
import torch

from agent_forge.contract import one
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import save_model
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases import load
from agent_forge.phases.baking.config import BakingConfig
from agent_forge.pipeline.memory_context import MemoryContext

PERSONA = 'You are Salt, the sailor. You begin every answer with "Aye!" and end it with the words Fair winds.'
TINY = BakingConfig(
    persona=PERSONA, levels=(1, 2), tools=("calculator", "clock"), practice_steps=3, practice_batch=2,
    sequence_length=96, iterations=2, tools_steps=2, persona_steps=2, trajectories=2, max_questions=2, batch_size=2,
    anchor_batch=1, anchor_tokens=16, top_k=8, recovery_steps=2, window=1, target=1.0, min_tool_accuracy=0.0,
    max_tool_harm=1.0, selection_questions=12, test_questions=8, stability_conversations=1, answer_tokens=5,
    text_documents=2, checkpoint_every=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def baking_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("baking")
    ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=60_000, levels=(1, 2))
    corpus = Corpus.open(root / "corpus")
    tokenizer = train_tokenizer(corpus.training_texts(60_000), 300)
    torch.manual_seed(0)
    config = CognateConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2,
        gate_size=16, sliding_window=64, memory="off", zero_init_output=False,
    )  # fmt: skip
    model = CognateForCausalLM(config).eval()
    save_model(model, tokenizer, root / "plain", {})
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout())
    selection = select(model, tokenizer)
    finish_student(model, selection)
    save_ternary(model, tokenizer, root / "ternary", selection, {})
    return root


@pytest.fixture(scope="session")
def bake():
    def run(root, place, config=TINY, context=None, model="ternary"):
        context = context or MemoryContext(place, seed=3)
        inputs = {
            "model": context.adopt("checkpoint", root / model),
            "corpus": context.adopt("corpus", root / "corpus"),
        }
        return one(load("baking").run(config, inputs, context), "model"), context

    return run


@pytest.fixture(scope="session")
def baked(baking_folders, bake, tmp_path_factory):
    return bake(baking_folders, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def tiny_baking():
    return TINY
