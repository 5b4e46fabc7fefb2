"""The floor: the oldest revision whose code can still run on the current schema.

Code that is older than the schema looks here whether it may go on. Only a contracting migration
raises it. Locks nothing that was there before.

Revision: 0004_schema_floor
After: 0003_replay_progress
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004_schema_floor"
down_revision = "0003_replay_progress"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table with its row. All earlier migrations only added to the schema."""
    op.create_table(
        "schema_floor",
        sa.Column("revision", sa.Text(collation="C"), nullable=False),
        sa.Column("alone", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.PrimaryKeyConstraint("alone", name="pk_schema_floor"),
        sa.CheckConstraint("alone", name=op.f("ck_schema_floor_alone")),
    )
    op.execute("INSERT INTO schema_floor (revision) VALUES ('0001_first_schema')")


def downgrade() -> None:
    """Drop the table. Older code then requires exactly its own schema."""
    op.drop_table("schema_floor")
