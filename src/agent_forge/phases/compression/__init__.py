"""Phase 8: one small file, every codec behind a gate that measures."""
