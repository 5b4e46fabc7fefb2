"""The last known capability of each Ably key, for restarts while Ably does not answer.

Locks nothing that was there before.

Revision: 0005_key_capabilities
After: 0004_schema_floor
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005_key_capabilities"
down_revision = "0004_schema_floor"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "key_capabilities",
        sa.Column("key_name", sa.Text(collation="C"), nullable=False),
        sa.Column("capability", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("key_name", name="pk_key_capabilities"),
    )


def downgrade() -> None:
    """Drop the table. Older code asks Ably again after each start."""
    op.drop_table("key_capabilities")
