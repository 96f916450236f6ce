"""Phase 1: pretraining of TRM × Titans-MAG models."""

from agent_forge.contract import Declaration

DECLARATION = Declaration(
    name="cognate",
    version=3,
    consumes={"corpus": "corpus"},
    produces={"specialists": "checkpoints", "trunk": "checkpoint"},
)
