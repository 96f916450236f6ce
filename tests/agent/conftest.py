"""A tiny model that has learned a few dialogues with tools by heart, and the world's toolbox."""

from __future__ import annotations

import pytest
from tests.agent.dialogues import RECORDS, documents, taught

from agent_forge.agent.kinds import world_toolbox
from agent_forge.agent.knowledge import Knowledge
from agent_forge.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer([document.text for document in documents()] * 4, 400)


@pytest.fixture(scope="session")
def agent(tokenizer):
    """The model."""
    return taught(tokenizer, documents(), steps=100)


@pytest.fixture
def toolbox():
    return world_toolbox(Knowledge(RECORDS))
