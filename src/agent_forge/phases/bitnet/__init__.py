"""Phase 4: 1.58-bit weights."""
