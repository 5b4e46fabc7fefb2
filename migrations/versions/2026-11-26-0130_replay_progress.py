"""Progress of replays in seconds and generations, their schedule's summary, and an index on the id.

Locks replays for a moment; the table is small.

Revision: 0003_replay_progress
After: 0002_claims
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003_replay_progress"
down_revision = "0002_claims"
branch_labels = None
depends_on = None

RULES = (
    ("seconds_done_counts", "seconds_done >= 0"),
    ("gen_counts_from_1", "gen >= 1"),
    ("gen_from_in_range", "gen_from >= 0 AND gen_from <= chunks"),
)


def upgrade() -> None:
    """Add the columns."""
    op.add_column(
        "replays",
        sa.Column("seconds_done", pg.DOUBLE_PRECISION, nullable=False, server_default=sa.text("0")),
    )
    op.add_column(
        "replays", sa.Column("gen", sa.Integer, nullable=False, server_default=sa.text("1"))
    )
    op.add_column(
        "replays", sa.Column("gen_from", sa.Integer, nullable=False, server_default=sa.text("0"))
    )
    op.add_column(
        "replays",
        sa.Column(
            "plan", sa.LargeBinary, nullable=False, server_default=sa.text("'\\x7b7d'::bytea")
        ),
    )
    for name, rule in RULES:
        op.create_check_constraint(op.f(f"ck_replays_{name}"), "replays", rule)
    op.create_index("ix_replays_id", "replays", ["id"])


def downgrade() -> None:
    """Drop the columns. Running replays then start from the beginning."""
    op.drop_index("ix_replays_id", "replays")
    for name, _ in RULES:
        op.drop_constraint(op.f(f"ck_replays_{name}"), "replays")
    for column in ("plan", "gen_from", "gen", "seconds_done"):
        op.drop_column("replays", column)
