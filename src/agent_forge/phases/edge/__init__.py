"""Phase 7: experts, a design for the agent, and a bundle that runs without PyTorch."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="edge",
    version=2,  # the sums of answer nats differ in the sixth digit, and with them what they choose
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint", "bundle": "bundle"},
)
