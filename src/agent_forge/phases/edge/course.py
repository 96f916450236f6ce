"""The parts of phase 7 in turn, each of which can be resumed in its middle."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from agent_forge.contract import Context
from agent_forge.errors import Interrupted


class Course:
    """Keeps the newest state of every part.

    Args:
        context: of the phase run.

    Attributes:
        states: part → what it kept last.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        found = context.restore()
        self.states: dict[str, Any] = {} if found is None else dict(found[0])
        self.kept = 0 if found is None else found[1]

    def keep(self, part: str, state: Any) -> None:
        """Saves the state of a part: nested mappings of tensors, numbers and text.

        Raises:
            Interrupted: a stop was asked for.
        """
        self.states[part] = state
        self.kept += 1
        self.context.checkpoint(self.states, self.kept)
        if self.context.should_stop():
            raise Interrupted(f"stopped in phase edge, {part}; the newest state is saved")

    def remember(self, part: str, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """JSON values that are made once."""
        if part not in self.states:
            self.keep(part, json.dumps(make()))
        value: dict[str, Any] = json.loads(self.states[part])
        return value
