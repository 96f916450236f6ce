"""Phase 7: experts, a design for the agent, and a bundle that runs without PyTorch."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="edge",
    version=4,  # cuts and designs stay only where they are shown to be harmless; the bundle sits the exam
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint", "bundle": "bundle"},
)
