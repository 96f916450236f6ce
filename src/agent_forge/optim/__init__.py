"""Optimizers, clipping of queries and keys, and schedules: shared by every phase that trains."""
