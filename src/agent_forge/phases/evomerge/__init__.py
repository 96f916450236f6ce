"""Phase 2: evolutionary merging."""
