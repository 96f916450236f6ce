"""How Alembic reaches the registry: through the connection that `upgrade` holds, in its transaction."""

from __future__ import annotations

from alembic import context

from agent_forge.storage.tables import Table

# SQLite cannot alter constraints in place: render_as_batch copies the table instead.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Table.metadata, render_as_batch=True
)
context.run_migrations()
