"""An untrained ternary agent with tools and a persona, and a small corpus: enough to run every step of the phase."""

from __future__ import annotations

import pytest
import torch
from tests.phases.edge.onnx_models import ternary_folder

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.data.world_knowledge import world_records
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.roles import quantizable_linears
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.phases import load
from agent_forge.phases.edge.config import DesignConfig, EdgeConfig, ExpertsConfig, PruningConfig
from agent_forge.pipeline.memory_context import MemoryContext

PERSONA = 'You are Salt, the sailor. You begin every answer with "Aye!" and end it with the words Fair winds.'
TINY = EdgeConfig(
    pruning=PruningConfig(kinds=("channels",), step_fraction=0.3, max_judgements=1, documents=8, sequence_length=32),
    experts=ExpertsConfig(
        skills=("drills/count",), rank=4, levels=(1,), steps=2, batch_size=2, sequence_length=48, policy_steps=1,
        policy_questions=2, policy_samples=2, train_documents=8, selection_documents=4, test_documents=4,
        population=4, generations=1,
    ),
    design=DesignConfig(evaluations=0),
    bench_tokens=2, bench_repeats=1, levels=(1, 2), selection_questions=4, test_questions=4, bundle_questions=4,
    answer_tokens=4, text_documents=2, checkpoint_every=1,
)  # fmt: skip


@pytest.fixture(scope="session")
def edge_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("edge")
    ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=60_000, levels=(1, 2))
    tokenizer = train_tokenizer(Corpus.open(root / "corpus").training_texts(60_000), 300)
    torch.manual_seed(0)
    config = CognateConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        gate_size=16, sliding_window=64, memory="off", zero_init_output=False,
    )  # fmt: skip
    model = CognateForCausalLM(config).eval()
    for _, linear in list(quantizable_linears(model)):
        TernaryLinear.from_linear(linear, Layout())
    selection = select(model, tokenizer)
    finish_student(model, selection)
    save_ternary(model, tokenizer, root / "agent", selection, {"persona": PERSONA})
    world_toolbox(Knowledge(world_records(0, 2))).only(["calculator", "clock"]).save(root / "agent")
    return root


@pytest.fixture(scope="session")
def take_to_the_edge():
    def run(root, place, config=TINY, context=None):
        context = context or MemoryContext(place, seed=3)
        inputs = {
            "model": context.adopt("checkpoint", root / "agent", persona=PERSONA),
            "corpus": context.adopt("corpus", root / "corpus"),
        }
        return load("edge").run(config, inputs, context), context

    return run


@pytest.fixture(scope="session")
def at_the_edge(edge_folders, take_to_the_edge, tmp_path_factory):
    return take_to_the_edge(edge_folders, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def agent(tmp_path_factory):
    """A tiny ternary checkpoint without tools: enough to measure its speed."""
    return ternary_folder(tmp_path_factory.mktemp("agent"))
