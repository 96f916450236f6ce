"""Phase 5: the ternary model learns by a curriculum at the edge of what it can do."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="forge",
    version=3,  # forgetting beyond luck is reported, too
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
