"""Phase 2: evolves merges of specialists; also merges checkpoints on its own."""
