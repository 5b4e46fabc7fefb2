"""${message}

Old and new code run side by side while a new version is rolled out, so a change expands first (new
columns that may be null, new tables) and contracts in a later release. What it locks, and for how
long, is said here:

* ADD COLUMN without a volatile default, DROP COLUMN, ADD CONSTRAINT … NOT VALID: ACCESS EXCLUSIVE,
  for a moment. The lock timeout of `env.py` makes it give up rather than stop all readers.
* CREATE INDEX: no writes while it runs. On a large table use `postgresql_concurrently=True` in a
  migration of its own, within `op.get_context().autocommit_block()`.
* VALIDATE CONSTRAINT: SHARE UPDATE EXCLUSIVE, reads and writes go on.
* A change of a column's type, SET NOT NULL: ACCESS EXCLUSIVE while the whole table is read.

Revision: ${up_revision}
After: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Expand."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Take it back."""
    ${downgrades if downgrades else "pass"}
