"""A session: one execution of the pipeline, held by one process at a time."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_forge.config import ForgeConfig, parse_config
from agent_forge.contract import Artifacts, many
from agent_forge.errors import ConfigError
from agent_forge.storage.home import Home
from agent_forge.storage.registry import Registry
from agent_forge.storage.session_lock import SessionLock

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Session:
    """An open session whose lock this process holds.

    Attributes:
        created: True if this process made it, False if it was there before.
    """

    def __init__(self, home: Home, name: str, config: ForgeConfig, lock: SessionLock, *, created: bool) -> None:
        self.home, self.name, self.config, self.created = home, name, config, created
        self._lock = lock

    @property
    def registry(self) -> Registry:
        """The registry of the home."""
        return self.home.registry

    @property
    def folder(self) -> Path:
        """Where its artifacts can be looked at."""
        return self.home.path / "sessions" / self.name

    def beat(self) -> None:
        """Says that the owner is alive; cheap to call often."""
        self._lock.beat()

    def link(self, folder: str, outputs: Artifacts) -> None:
        """Shows the outputs of a phase as links: ``sessions/<name>/<folder>/<handoff>``."""
        place = self.folder / folder
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        for name in outputs:
            artifacts = many(outputs, name)
            for index, artifact in enumerate(artifacts):
                label = name if len(artifacts) == 1 else f"{name}_{artifact.facts.get('specialization', index)}"
                target = self.home.blobs.view(artifact)
                (place / label).symlink_to(Path("../../..") / target.relative_to(self.home.path))

    def finish(self, status: str, outcome: Mapping[str, Any]) -> None:
        """Records how the run ended."""
        self.registry.finish_session(self.name, status, dict(outcome))


@contextmanager
def open_session(home: Home, name: str | None, config: ForgeConfig) -> Iterator[Session]:
    """A session that goes on if it exists and begins if not, locked while the block runs.

    Raises:
        ConfigError: the name cannot be used, or the session exists with another configuration.
        SessionBusy: another live process holds it.
    """
    chosen = name or _free_name(home, config.preset)
    if not _NAME.fullmatch(chosen):
        raise ConfigError(f"a session name has 1–64 letters, digits, '.', '_' or '-', and {chosen!r} does not")
    wanted = config.model_dump(mode="json")
    with SessionLock(home.path / "sessions", chosen) as lock:
        row = home.registry.find_session(chosen)
        if row is None:
            home.registry.create_session(chosen, wanted)
        elif row.config != wanted:
            raise ConfigError(
                f"session {chosen!r} exists with another configuration ({_difference(row.config, wanted)}); "
                f"choose another --session, or go on with `agent-forge resume {chosen}`"
            )
        home.registry.start_session(chosen)
        session = Session(home, chosen, config, lock, created=row is None)
        try:
            yield session
        except BaseException as error:
            code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 4)
            status = {3: "gate_failed", 130: "interrupted"}.get(code, "failed")
            home.registry.finish_session(chosen, status, None)
            raise


def recorded_config(home: Home, name: str) -> ForgeConfig:
    """The configuration with which a session began.

    Raises:
        SessionNotFound: no session of that name.
    """
    return parse_config(home.registry.session(name).config)


def _free_name(home: Home, preset: str) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    number = 1
    while home.registry.find_session(f"{preset}-{day}-{number}") is not None:
        number += 1
    return f"{preset}-{day}-{number}"


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> str:
    """The first key that differs, with both values."""
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            return _difference(before, after, f"{prefix}{key}.")
        return f"{prefix}{key} was {json.dumps(before)} and is {json.dumps(after)}"
    return "nothing"
