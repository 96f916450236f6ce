from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from tests.phases.evomerge.tiny import trained_family

settings.register_profile("no deadline", deadline=None)  # a busy machine is not a failure
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a trunk and three specialists that learnt something; read-only."""
    folder = tmp_path_factory.mktemp("world")
    trained_family(folder)
    return folder
