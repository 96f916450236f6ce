"""Attachments of phase runs get a table of their own, and sessions carry facts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds both; sessions that are already there have no facts."""
    op.create_table(
        "attachments",
        sa.Column("phase_run_id", sa.Integer, sa.ForeignKey("phase_runs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String(100), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.add_column("sessions", sa.Column("facts", sa.Text, nullable=False, server_default="{}"))
