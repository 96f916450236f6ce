"""Phase 4: 1.58-bit weights with accuracy recovery, their packed forms and exports."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="bitnet",
    version=3,  # thoughts go on
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
