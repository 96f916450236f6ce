"""Curves: one small interface, a local store that never blocks training."""
