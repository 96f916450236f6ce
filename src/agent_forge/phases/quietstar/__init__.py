"""Phase 3: thinking between ``<think>`` and ``</think>`` before answering."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="quietstar",
    version=2,  # the fact practice names direct_fraction; a convolution thinks in parallel
    consumes={"model": "checkpoint", "corpus": "corpus"},
    produces={"model": "checkpoint"},
)
