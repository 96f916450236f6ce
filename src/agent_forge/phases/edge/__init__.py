"""Phase 7: experts, a design for the agent, and a bundle that runs without PyTorch."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="edge",
    version=4,  # a cut stays only where it is shown to be harmless
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint", "bundle": "bundle"},
)
