"""The door to the registry's database: who may write when, and how durable it is.

Traps of SQLite that were measured, and what is done about each:

1. A deferred ``BEGIN`` that reads and then writes fails at once with "locked", whatever the timeout:
   every write transaction opens with ``BEGIN IMMEDIATE``.
2. SQLite 3.7.0 to 3.51.2 can lose a WAL reset when a writer and a checkpoint meet: writes,
   checkpoints and closing a connection (which checkpoints) take one advisory file lock.
3. The driver opens transactions on its own and commits before DDL: it is switched off here.
4. ``cache_size`` counts pages when positive: −10000 is 10 MB.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from agent_forge.errors import ArtifactCorrupt, DiskFull, HomeReadOnly, SessionBusy

WAIT_SECONDS = 60.0
"""How long a writer waits for the others before it gives up with a sentence."""


def sqlite_version() -> tuple[str, bool]:
    """The linked SQLite and whether it is free of the WAL-reset bug (fixed in 3.51.3)."""
    return sqlite3.sqlite_version, sqlite3.sqlite_version_info >= (3, 51, 3)


class WriteLock:
    """One writer at a time among the threads and processes that use a database file; re-entrant in its thread."""

    def __init__(self, path: Path) -> None:
        self._threads = threading.RLock()
        self._processes = FileLock(path, timeout=WAIT_SECONDS, poll_interval=0.002, thread_local=False)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the lock and holds it.

        Raises:
            SessionBusy: another process kept it for longer than `WAIT_SECONDS`.
        """
        with self._threads:
            try:
                self._processes.acquire()
            except Timeout as error:
                raise SessionBusy(
                    f"another process has been writing to the registry for {WAIT_SECONDS:.0f} s; "
                    f"wait for it, or end it if it hangs ({self._processes.lock_file})"
                ) from error
            try:
                yield
            finally:
                self._processes.release()


class Database:
    """Connections to one registry.

    Args:
        url: ``sqlite:///path`` or any URL of SQLAlchemy.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        parsed = make_url(url)
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.file = Path(parsed.database or "")
            self.lock: WriteLock | None = WriteLock(self.file.with_name(self.file.name + ".lock"))
            self.engine = _sqlite_engine(url, self.lock)
        else:
            self.lock = None
            self.engine = create_engine(url)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view; never waits for writers on SQLite."""
        with readable_errors(self.url), self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, alone among all writers; committed and durable when the block ends well.

        Raises:
            DiskFull, HomeReadOnly, SessionBusy, ArtifactCorrupt: with a sentence; nothing was committed.
        """
        with readable_errors(self.url), self.write_lock():
            connection = self.engine.connect().execution_options(forge_write=True)
            with connection, connection.begin():
                yield connection

    @contextmanager
    def write_lock(self) -> Iterator[None]:
        """The lock alone, for checkpoints and clean-up."""
        if self.lock is None:
            yield
        else:
            with self.lock.held():
                yield

    def checkpoint(self) -> None:
        """Moves the write-ahead log into the database file."""
        if self.is_sqlite:
            with readable_errors(self.url), self.write_lock():
                # The driver's own connection: SQLAlchemy would open a transaction first, and that refuses a checkpoint.
                connection = self.engine.raw_connection()
                try:
                    connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
                finally:
                    connection.close()

    def close(self) -> None:
        """Closes every connection, alone among all writers (the last one to close checkpoints)."""
        with self.write_lock():
            self.engine.dispose()


def _sqlite_engine(url: str, lock: WriteLock) -> Engine:
    class LockedConnection(sqlite3.Connection):
        """Closing the last connection checkpoints, so it takes the lock as well."""

        def close(self) -> None:
            with lock.held():
                super().close()

    engine = create_engine(
        url, connect_args={"factory": LockedConnection, "timeout": WAIT_SECONDS, "check_same_thread": False}
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None
        # Switching to WAL writes the header of the file: alone, and only when it is not yet on.
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            with lock.held():
                connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA cache_size=-10000")
        connection.execute(f"PRAGMA busy_timeout={int(WAIT_SECONDS * 1000)}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("forge_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@contextmanager
def readable_errors(url: str) -> Iterator[None]:
    """Turns the database's own errors into ours; what is unknown passes unchanged."""
    try:
        yield
    except (DBAPIError, sqlite3.DatabaseError) as error:
        message = str(error.orig if isinstance(error, DBAPIError) else error)
        if "disk is full" in message or "disk I/O error" in message:
            raise DiskFull(
                f"the registry {url} could not be written ({message}); nothing that was committed is lost: "
                "free some space and resume"
            ) from error
        if "readonly" in message or "unable to open" in message:
            raise HomeReadOnly(f"the registry {url} cannot be written ({message}); choose another --home") from error
        if "not a database" in message or "malformed" in message:
            raise ArtifactCorrupt(f"the registry {url} is damaged ({message}); restore it from a backup") from error
        if "locked" in message:
            raise SessionBusy(f"another process held the registry {url} for too long ({message})") from error
        raise
