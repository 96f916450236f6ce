"""Phase 2: evolutionary merging."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="evomerge",
    version=2,
    consumes={"specialists": "checkpoints", "trunk": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
