"""Phase 8: one tiny file."""
