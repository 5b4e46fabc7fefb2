"""Claims: which agent is about to answer which prompt.

Locks nothing that was there before, but messages for as long as the table takes to be made.

Revision: 0002_claims
After: 0001_first_schema
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002_claims"
down_revision = "0001_first_schema"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "claims",
        sa.Column("conversation_id", sa.Text(collation="C"), nullable=False),
        sa.Column("prompt_id", sa.Text(collation="C"), nullable=False),
        sa.Column("holder", sa.Text(collation="C"), nullable=False),
        sa.Column("until", pg.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "prompt_id", name="pk_claims"),
        sa.ForeignKeyConstraint(
            ["conversation_id", "prompt_id"],
            ["messages.conversation_id", "messages.id"],
            name="fk_claims_messages",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    """Drop the table. Prompts that are being answered may then be answered twice."""
    op.drop_table("claims")
