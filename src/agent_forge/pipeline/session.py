"""A session: one execution of the pipeline, held by one process at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from agent_forge.config import ForgeConfig, parse_config
from agent_forge.errors import ConfigError, ForgeError, SessionNotFound
from agent_forge.pipeline.environment import cores, environment
from agent_forge.storage.home import Home
from agent_forge.storage.registry import Registry
from agent_forge.storage.retention import delete_session
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
    def threads(self) -> int:
        """CPU threads of its phases; ``threads: 0`` is what it was when the session began: resumes sum alike."""
        began = self.registry.session(self.name).facts.get("environment", {})
        return int(self.config.threads or began.get("threads") or cores())

    def check(self) -> None:
        """To be called before anything is committed.

        Raises:
            SessionBusy: another process took the session over while this one stood still.
        """
        self._lock.check()

    def finish(self, status: str, outcome: Mapping[str, Any] | None = None) -> None:
        """Records how the run ended: completed, degraded, failed or interrupted."""
        self.registry.set_session_status(self.name, status, {"outcome": dict(outcome)} if outcome else None)


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
    session = None
    try:
        with _held(home, chosen, config) as session:
            yield session
    except ForgeError as error:
        # What was refused as bad input before it gave anything leaves nothing. The lock is given back by now.
        refused = error.exit_code == 2 and session is not None and session.created
        if refused and not any(run.status in ("completed", "reused") for run in home.registry.phase_runs(chosen)):
            delete_session(home, chosen, f"refused: {error}")
        raise


@contextmanager
def _held(home: Home, chosen: str, config: ForgeConfig) -> Iterator[Session]:
    wanted = config.model_dump(mode="json")
    with SessionLock(home.path / "sessions" / chosen) as lock:
        created = not exists(home, chosen)
        if created:
            facts = {"environment": environment(config.device, config.threads)}
            home.registry.create_session(chosen, wanted, facts)
        else:
            before = home.registry.session(chosen).config
            if before != wanted:
                raise ConfigError(
                    f"session {chosen!r} exists with another configuration ({_difference(before, wanted)}); "
                    f"choose another --session, or go on with `agent-forge resume {chosen}`"
                )
            home.registry.abandon_running(chosen)
        if lock.took_over:
            home.registry.add_event(chosen, "lock_taken_over", {"why": lock.took_over})
        home.registry.set_session_status(chosen, "running")
        session = Session(home, chosen, config, lock, created=created)
        try:
            yield session
        except BaseException as error:
            interrupted = isinstance(error, KeyboardInterrupt) or getattr(error, "exit_code", 0) == 130
            session.finish("interrupted" if interrupted else "failed")
            raise


def exists(home: Home, name: str) -> bool:
    """Whether the home has a session of that name."""
    try:
        home.registry.session(name)
    except SessionNotFound:
        return False
    return True


def recorded_config(home: Home, name: str) -> ForgeConfig:
    """The configuration with which a session began.

    Raises:
        SessionNotFound: no session of that name.
    """
    return parse_config(home.registry.session(name).config)


def _free_name(home: Home, preset: str) -> str:
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    number = 1
    while exists(home, f"{preset}-{day}-{number}"):
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
