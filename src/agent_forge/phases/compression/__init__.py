"""Phase 8: one tiny file."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="compression",
    version=3,  # matrices that experts adapt are exact
    consumes={"model": "checkpoint", "corpus": "corpus", "trunk": "checkpoint?"},
    produces={"agent": "agent_file"},
)
