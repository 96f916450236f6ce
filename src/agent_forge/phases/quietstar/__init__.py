"""Phase 3: thinking between ``<think>`` and ``</think>`` before answering."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="quietstar",
    version=4,  # reads no more text than it needs
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
