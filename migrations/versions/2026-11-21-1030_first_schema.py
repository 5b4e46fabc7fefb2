"""The first schema: conversations, messages, chunks, leases, replays, audit.

Locks no existing table.

Revision: 0001_first_schema
After: nothing
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001_first_schema"
down_revision = None
branch_labels = None
depends_on = None

IN_LINE = {"toast_tuple_target": "8160"}

# jsonb rejects NUL and lone surrogates. In a text that contains them, every escape of that form is
# shown as U+FFFD; the stored bytes are not changed.
READABLE_WIRE = r"""
CREATE FUNCTION rehydrate_wire(stored bytea) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    once boolean := get_byte(stored, 0) = ascii('~');
    said text := convert_from(CASE WHEN once THEN substr(stored, 10) ELSE stored END, 'UTF8');
    body jsonb;
BEGIN
    BEGIN
        body := said::jsonb;
    EXCEPTION WHEN data_exception THEN
        body := regexp_replace(said, '\\u(0000|d[89a-f][0-9a-f]{2})', '\\ufffd', 'g')::jsonb;
    END;
    RETURN CASE WHEN once THEN jsonb_set(body, '{parts,0,text}', body->'text') ELSE body END;
END
$$
"""

MESSAGES_READABLE = """
CREATE VIEW messages_readable AS
SELECT
    m.conversation_id, m.id, m.role, m.status, m.gen, m.position,
    m.prompt_id, m.started_at, m.finished_at,
    w.body->>'text' AS text, w.body->'parts' AS parts, w.body->'usage' AS usage,
    w.body->'error' AS error, w.body->'metadata' AS metadata, w.body->'through' AS through,
    w.body->'gaps' AS gaps, (w.body->>'exact')::boolean AS exact
FROM messages AS m
LEFT JOIN LATERAL (SELECT rehydrate_wire(m.wire) AS body OFFSET 0) AS w ON true
"""

APPEND_ONLY = """
CREATE FUNCTION rehydrate_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$
"""

AUDIT_APPEND_ONLY = """
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
FOR EACH STATEMENT EXECUTE FUNCTION rehydrate_append_only()
"""


def ident(name: str, *, nullable: bool = False) -> sa.Column[str]:
    """Return a text column that compares by code point, as Python does."""
    return sa.Column(name, sa.Text(collation="C"), nullable=nullable)


def time(name: str, *, nullable: bool = True) -> sa.Column[object]:
    """Return a time column."""
    return sa.Column(name, pg.TIMESTAMP(timezone=True), nullable=nullable)


def flag(name: str) -> sa.Column[bool]:
    """Return a boolean column, false by default."""
    return sa.Column(name, sa.Boolean, nullable=False, server_default=sa.text("false"))


def upgrade() -> None:
    """Create the tables, the view, and the trigger that makes the audit log append-only."""
    conversations()
    messages()
    chunks()
    leases()
    replays()
    audit()
    op.execute(READABLE_WIRE)
    op.execute(MESSAGES_READABLE)
    op.execute(APPEND_ONLY)
    op.execute(AUDIT_APPEND_ONLY)


def downgrade() -> None:
    """Drop everything, including all data."""
    op.execute("DROP VIEW messages_readable")
    op.execute("DROP FUNCTION rehydrate_wire")
    for table in ("audit", "replays", "leases", "chunks", "messages", "conversations"):
        op.drop_table(table)
    op.execute("DROP FUNCTION rehydrate_append_only")


def conversations() -> None:
    """Create the table with one row per conversation."""
    op.create_table(
        "conversations",
        ident("id"),
        ident("channel"),
        time("created_at", nullable=False),
        ident("watermark_serial", nullable=True),
        time("watermark_at"),
        time("read_at"),
        sa.Column("holes", pg.JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("tombstone", pg.JSONB),
        sa.Column("metadata", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="pk_conversations"),
        sa.UniqueConstraint("channel", name="uq_conversations_channel"),
        check("conversations_watermark_whole", "(watermark_at IS NULL) = (read_at IS NULL)"),
        check(
            "conversations_watermark_serial_timed",
            "watermark_serial IS NULL OR watermark_at IS NOT NULL",
        ),
        check("conversations_holes_listed", "jsonb_typeof(holes) = 'array'"),
    )
    op.create_index(
        "ix_conversations_newest", "conversations", [sa.text("created_at DESC"), sa.text("id DESC")]
    )


def messages() -> None:
    """Create the table with one row per message; the text of an open one is in its chunks."""
    op.create_table(
        "messages",
        ident("conversation_id"),
        ident("id"),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("gen", sa.Integer, nullable=False),
        ident("position", nullable=True),
        flag("anonymous"),
        ident("prompt_id", nullable=True),
        time("started_at"),
        time("finished_at"),
        sa.Column("facts", sa.LargeBinary, nullable=False),
        sa.Column("wire", sa.LargeBinary),
        sa.Column("tape", sa.LargeBinary),
        sa.PrimaryKeyConstraint("conversation_id", "id", name="pk_messages"),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_messages_conversations"
        ),
        *message_rules(),
        postgresql_with=IN_LINE,
    )
    finished, still_open = "status <> 'in_progress'", "status = 'in_progress'"
    for name, columns, where in (
        ("finished", ["conversation_id", "position", "id"], finished),
        ("open", ["conversation_id", "id"], still_open),
        ("anonymous", ["conversation_id", "position"], "anonymous"),
    ):
        op.create_index(f"ix_messages_{name}", "messages", columns, postgresql_where=sa.text(where))


def message_rules() -> list[sa.CheckConstraint]:
    """Return the constraints on messages."""
    statuses = "'cancelled', 'completed', 'failed', 'in_progress', 'incomplete', 'interrupted'"
    return [
        check("messages_role_known", "role IN ('user', 'assistant')"),
        check("messages_status_known", f"status IN ({statuses})"),
        check("messages_gen_counts_from_1", "gen >= 1"),
        check("messages_prompt_terminal", "role = 'assistant' OR status <> 'in_progress'"),
        check(
            "messages_finished_when_terminal",
            "(status = 'in_progress') = (finished_at IS NULL)",
        ),
        check("messages_wire_when_terminal", "(status = 'in_progress') = (wire IS NULL)"),
        check("messages_tape_with_wire", "(wire IS NULL) = (tape IS NULL)"),
        check("messages_placed_when_terminal", "status = 'in_progress' OR position IS NOT NULL"),
    ]


def chunks() -> None:
    """Create the table with one row for what one write appended to an open message."""
    op.create_table(
        "chunks",
        ident("conversation_id"),
        ident("message_id"),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("tape", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", "ordinal", name="pk_chunks"),
        check("chunks_ordinal_counts", "ordinal >= 0"),
        postgresql_with=IN_LINE,
    )


def leases() -> None:
    """Create the table with one row per response that has, or had, a publisher."""
    op.create_table(
        "leases",
        ident("conversation_id"),
        ident("message_id"),
        ident("holder", nullable=True),
        time("until"),
        flag("fenced"),
        time("told_at"),
        sa.PrimaryKeyConstraint("conversation_id", "message_id", name="pk_leases"),
        sa.ForeignKeyConstraint(
            ["conversation_id", "message_id"],
            ["messages.conversation_id", "messages.id"],
            name="fk_leases_messages",
        ),
        check("leases_whole", "(holder IS NULL) = (until IS NULL)"),
        check("leases_told_ends", "told_at IS NULL OR holder IS NULL"),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_index(
        "ix_leases_untold",
        "leases",
        ["conversation_id", "message_id"],
        postgresql_where=sa.text("told_at IS NULL"),
    )


def replays() -> None:
    """Create the table with one row per requested replay."""
    op.create_table(
        "replays",
        ident("conversation_id"),
        ident("id"),
        ident("message_id"),
        ident("channel"),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("speed", pg.DOUBLE_PRECISION, nullable=False),
        sa.Column("from_seq", sa.Integer, nullable=False),
        sa.Column("max_rate", pg.DOUBLE_PRECISION, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("chunks", sa.Integer, nullable=False),
        sa.Column("done", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("seconds", pg.DOUBLE_PRECISION, nullable=False),
        ident("asked_by"),
        ident("idempotency_key", nullable=True),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("error", sa.LargeBinary),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        flag("cancel_asked"),
        ident("lease_holder", nullable=True),
        time("lease_until"),
        time("created_at", nullable=False),
        time("started_at"),
        time("finished_at"),
        sa.PrimaryKeyConstraint("conversation_id", "id", name="pk_replays"),
        sa.UniqueConstraint(
            "conversation_id",
            "idempotency_key",
            name="uq_replays_conversation_id_idempotency_key",
        ),
        sa.ForeignKeyConstraint(
            ["conversation_id"], ["conversations.id"], name="fk_replays_conversations"
        ),
        *replay_rules(),
    )
    op.create_index(
        "ix_replays_due",
        "replays",
        ["created_at"],
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index(
        "ix_replays_newest", "replays", [sa.text("created_at DESC"), sa.text("id DESC")]
    )


def replay_rules() -> list[sa.CheckConstraint]:
    """Return the constraints on replays."""
    terminal = "'done', 'failed', 'cancelled'"
    return [
        check("replays_mode_known", "mode IN ('stream', 'repair')"),
        check("replays_state_known", f"state IN ('queued', 'running', {terminal})"),
        check("replays_speed_in_range", "speed >= 0 AND speed <= 1000"),
        check("replays_from_seq_counts", "from_seq >= 0"),
        check("replays_max_rate_positive", "max_rate > 0"),
        check("replays_progress_in_range", "done >= 0 AND done <= chunks"),
        check("replays_attempts_count", "attempts >= 0"),
        check(
            "replays_finished_when_terminal",
            f"(state IN ({terminal})) = (finished_at IS NOT NULL)",
        ),
        check("replays_started_when_running", "state <> 'running' OR started_at IS NOT NULL"),
        check("replays_lease_whole", "(lease_holder IS NULL) = (lease_until IS NULL)"),
        check("replays_leased_when_running", "lease_holder IS NULL OR state = 'running'"),
    ]


def audit() -> None:
    """Create the table with one row per action of an admin, which is never deleted."""
    op.create_table(
        "audit",
        ident("conversation_id"),
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), nullable=False),
        time("at", nullable=False),
        ident("actor"),
        ident("action"),
        ident("target", nullable=True),
        ident("address", nullable=True),
        ident("outcome"),
        sa.Column("detail", sa.LargeBinary),
        sa.PrimaryKeyConstraint("conversation_id", "id", name="pk_audit"),
    )
    op.create_index("ix_audit_newest", "audit", [sa.text("id DESC")])


def check(name: str, rule: str) -> sa.CheckConstraint:
    """Return a CHECK constraint; *name* is its full name without the prefix ``ck_``."""
    return sa.CheckConstraint(rule, name=op.f(f"ck_{name}"))
