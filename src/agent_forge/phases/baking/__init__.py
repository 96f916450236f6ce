"""Phase 6: tools and a persona baked into the weights."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="baking",
    version=3,  # ordinary text in practice is read whole
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
