"""A context that dies in the middle of a phase, for the resume tests of every phase."""

from __future__ import annotations

from agent_forge.pipeline.memory_context import MemoryContext


class Killed(BaseException):
    """Ends a run the way a kill does: nothing of ours may catch it."""


class FragileContext(MemoryContext):
    """Dies at a given step, keeping only what was checkpointed."""

    deadly_step = -1

    def progress(self, done, total, note=""):
        if done == self.deadly_step:
            raise Killed
