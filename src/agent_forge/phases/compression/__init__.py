"""Phase 8: one tiny file."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="compression",
    version=4,  # the file is asked for what the agent can do
    consumes={"model": "checkpoint", "corpus": "corpus", "trunk": "checkpoint?"},
    produces={"agent": "agent_file"},
)
