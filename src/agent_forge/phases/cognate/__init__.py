"""Phase 1: pretraining of a trunk and three specialists."""
