"""Phase 4: 1.58-bit weights with accuracy recovery, their packed forms and exports."""
