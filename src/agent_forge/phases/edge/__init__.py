"""Phase 7: experts, a design for the agent, and a bundle that runs without PyTorch."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="edge",
    version=3,  # dispatch knows beginnings of texts, and leaves the base only behind a bar
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint", "bundle": "bundle"},
)
