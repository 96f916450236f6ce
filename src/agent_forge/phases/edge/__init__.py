"""Phase 7: experts, a design for the agent, and a bundle that runs without PyTorch."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="edge",
    version=4,  # the bundle brings the experts and the routes of its design, and sits the exam
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint", "bundle": "bundle"},
)
