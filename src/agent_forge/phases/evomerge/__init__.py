<<<<<<< HEAD
"""Phase 2: evolves merges of specialists; also merges checkpoints on its own."""
=======
"""Phase 2: evolutionary merging."""
>>>>>>> main
