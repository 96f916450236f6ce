"""Steps from one schema of the registry to the next; append only.

`upgrade` runs at every opening and costs one query when there is nothing to do.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from agent_forge.errors import HomeTooNew
from agent_forge.storage.database import Database

HEAD = "0002"
"""The newest revision; a test compares it with the files."""


def revision(connection: Connection) -> str | None:
    """The schema that the database has, None for an empty one."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)


def upgrade(database: Database) -> None:
    """Brings the schema to `HEAD`, in one transaction.

    Raises:
        HomeTooNew: the database was written by a newer version; it is left as it is.
    """
    with database.reading() as connection:
        found = revision(connection)
    if found == HEAD:
        return
    if found is not None and found > HEAD:
        raise HomeTooNew(
            f"the registry {database.url} has schema {found}, this version knows up to {HEAD}; "
            "install the newer Agent Forge, or choose another --home"
        )
    # Imported only now: Alembic costs 0.3 s, and most openings have nothing to migrate.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
