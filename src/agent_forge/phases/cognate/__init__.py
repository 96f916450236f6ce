"""Phase 1: pretraining of TRM × Titans-MAG models."""
