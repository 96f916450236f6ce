"""Phase 3: thinking between ``<think>`` and ``</think>`` before answering."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="quietstar",
    version=3,  # measures the nats of right answers, too
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
