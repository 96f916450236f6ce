"""A tiny model that has learned a few dialogues with tools by heart, and the world's toolbox."""

from __future__ import annotations

import pytest
import torch
from tests.agent.dialogues import RECORDS, documents
from transformers import LlamaConfig, LlamaForCausalLM

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.data.tokenizer import encode_documents, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([document.text for document in documents()] * 4, 400)


@pytest.fixture(scope="session")
def agent(tokenizer):
    """The model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=256, **sizes))
    rows = list(encode_documents(tokenizer, documents()))
    length = max(len(row.ids) for row in rows)
    ids = torch.tensor([row.ids + [0] * (length - len(row.ids)) for row in rows])
    asked = torch.tensor([row.prompted + [True] * (length - len(row.ids)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        loss = model(input_ids=ids, labels=ids.masked_fill(asked, -100)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture
def toolbox():
    return world_toolbox(Knowledge(RECORDS))
