"""Phase 6: tools and a persona baked into the weights."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="baking",
    version=4,  # practice has more dialogues with tools
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
