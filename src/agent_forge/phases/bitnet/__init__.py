"""Phase 4: 1.58-bit weights with accuracy recovery, their packed forms and exports."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="bitnet",
    version=4,  # reads no more text than it needs
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
