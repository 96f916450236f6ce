"""A corpus, a small model trained for seconds, and settings of seconds, for the tests of phase 3."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.contract import one
from agent_forge.data.corpora import Corpus, ingest
from agent_forge.data.tokenizer import train_tokenizer
from agent_forge.model import CognateConfig, CognateForCausalLM
from agent_forge.model.checkpoint import save_model
from agent_forge.phases import load
from agent_forge.phases.quietstar.config import QuietstarConfig
from agent_forge.pipeline.memory_context import MemoryContext

QUICK = QuietstarConfig(
    strategies=("decompose", "weigh"), levels=(1,), practice_items=60, habit_steps=6, sequence_length=48, batch_size=4,
    quiet_steps=4, quiet_batch_size=1, quiet_length=16, places=5, thought_length=3, talk_tokens=2, watch_window=2,
    thought_budget=12, answer_tokens=4, test_tasks=6, test_documents=2, precision="fp32", checkpoint_every=2,
    max_divergence=5.0, min_gain=-5.0, min_entropy=0.0,
)  # fmt: skip


def write_inputs(root, kind="cognate"):
    """Writes ``corpus`` and ``model`` below a folder; the model is hardly trained."""
    ingest(["synthetic"], root / "corpus", seed=0, synthetic_bytes=60_000, levels=(1,))
    corpus = Corpus.open(root / "corpus")
    tokenizer = train_tokenizer(corpus.training_texts(60_000), 320)
    torch.manual_seed(0)
    if kind == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=320,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=2,
                max_position_embeddings=512,
                bos_token_id=1,
                eos_token_id=2,
                pad_token_id=0,
            )
        )
    else:
        config = CognateConfig(
            vocab_size=320, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            sliding_window=64, short_convolution=0,
        )  # fmt: skip
        model = CognateForCausalLM(config)
    save_model(model.eval(), tokenizer, root / "model", {})
    return root


def run(folder, place, config=QUICK, context=None):
    """Runs the phase; gives the checkpoint and the context."""
    context = context or MemoryContext(place, seed=3)
    inputs = {
        "model": context.adopt("checkpoint", folder / "model"),
        "corpus": context.adopt("corpus", folder / "corpus"),
    }
    return one(load("quietstar").run(config, inputs, context), "model"), context
