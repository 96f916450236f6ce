"""A corpus, and a tiny ternary model that has read some of it and some drills, shared by the tests of this room."""

from __future__ import annotations

import pytest
import torch

from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.packing import Batches, pack
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.ternary import Layout, TernaryLinear
from agent_forge.model.ternary_checkpoint import finish_student, save_ternary
from agent_forge.model.ternary_selection import select
from agent_forge.optim.muon_grokfast import MuonGrokfast, matrix_names
from agent_forge.phases.forge.questions import Questions


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("forge")
    ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=100_000, levels=(1,))
    corpus = Corpus.open(root / "corpus")
    drills = [q.worked for n in (1, 2) for q in Questions(0, ("drills",)).draw(n, "train", 400)[0]]
    tokenizer = train_tokenizer([*corpus.training_texts(80_000), *(d.text for d in drills)], 320)
    shards = {domain: pack(corpus.documents(domain, "train"), tokenizer) for domain in corpus.domains}
    shards["drills"] = pack(drills, tokenizer)
    batches = Batches(
        shards, {**corpus.mixture(), "drills": 1.0}, sequence_length=48, batch_size=16, seed=0, mask_prompts=True
    )
    torch.manual_seed(0)
    model = CognateForCausalLM(
        CognateConfig(
            vocab_size=320,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            sliding_window=64,
        )
    )
    for linear in select(model, tokenizer).linears.values():
        TernaryLinear.from_linear(linear, Layout())
    optimizer = MuonGrokfast(model.named_parameters(), matrix_names(model), lr=1e-2, adamw_lr=5e-3)
    for step in range(60):
        loss = model(**batches.batch(step), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    selection = select(model.eval(), tokenizer)
    finish_student(model, selection)
    save_ternary(model, tokenizer, root / "model", selection, {"phase": "bitnet"})
    return root
