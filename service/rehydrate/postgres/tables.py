"""The schema: tables, indexes, and the invariants of rows as named CHECK constraints.

Every primary key begins with the conversation, and so does every query of readers and recorders, so
the schema can be sharded by conversation. There are two exceptions: a channel's name is unique
across conversations, because a channel belongs to one conversation only; and ``schema_floor``
belongs to the whole database.

Ids and serials have collation "C", so that they compare by code point, as in Python. Text of users
and publishers may contain characters that the type ``text`` rejects (NUL, lone surrogates), so it
is stored as JSON in ``bytea``; the view ``messages_readable`` shows it.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import DOUBLE_PRECISION, JSONB, TIMESTAMP

from rehydrate.core.event import STATUSES
from rehydrate.core.replay.schedule import REPLAY_STATES

_IN_LINE = {"toast_tuple_target": "8160"}
"""Keep rows of up to a page in line and uncompressed: a hydrate reads hundreds of them."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, Text(collation="C"), nullable=nullable)


def _time(name: str, *, nullable: bool = True) -> Column[object]:
    return Column(name, TIMESTAMP(timezone=True), nullable=nullable)


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _one_of(column: str, values: tuple[str, ...]) -> str:
    listed = ", ".join(f"'{value}'" for value in values)
    return f"{column} IN ({listed})"


conversations = Table(
    "conversations",
    metadata,
    _id("id"),
    _id("channel"),
    _time("created_at", nullable=False),
    _id("watermark_serial", nullable=True),
    _time("watermark_at"),
    _time("read_at"),
    Column("holes", JSONB, nullable=False, server_default=text("'[]'")),
    Column("tombstone", JSONB),
    Column("metadata", LargeBinary),
    PrimaryKeyConstraint("id"),
    UniqueConstraint("channel"),
    CheckConstraint("(watermark_at IS NULL) = (read_at IS NULL)", name="watermark_whole"),
    CheckConstraint(
        "watermark_serial IS NULL OR watermark_at IS NOT NULL", name="watermark_serial_timed"
    ),
    CheckConstraint("jsonb_typeof(holes) = 'array'", name="holes_listed"),
    Index("ix_conversations_newest", text("created_at DESC"), text("id DESC")),
)

messages = Table(
    "messages",
    metadata,
    _id("conversation_id"),
    _id("id"),
    Column("role", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("gen", Integer, nullable=False),
    _id("position", nullable=True),
    _flag("anonymous"),
    _id("prompt_id", nullable=True),
    _time("started_at"),
    _time("finished_at"),
    # The attributes of the state; in a finished message also the layout of its runs.
    Column("facts", LargeBinary, nullable=False),
    # The wire form of a finished message, compacted (see `compact`).
    Column("wire", LargeBinary),
    # The timings of a finished message, packed run by run.
    Column("tape", LargeBinary),
    PrimaryKeyConstraint("conversation_id", "id"),
    ForeignKeyConstraint(["conversation_id"], ["conversations.id"]),
    CheckConstraint("role IN ('user', 'assistant')", name="role_known"),
    CheckConstraint(_one_of("status", tuple(sorted(STATUSES))), name="status_known"),
    CheckConstraint("gen >= 1", name="gen_counts_from_1"),
    CheckConstraint("role = 'assistant' OR status <> 'in_progress'", name="prompt_terminal"),
    CheckConstraint(
        "(status = 'in_progress') = (finished_at IS NULL)", name="finished_when_terminal"
    ),
    CheckConstraint("(status = 'in_progress') = (wire IS NULL)", name="wire_when_terminal"),
    CheckConstraint("(wire IS NULL) = (tape IS NULL)", name="tape_with_wire"),
    CheckConstraint("status = 'in_progress' OR position IS NOT NULL", name="placed_when_terminal"),
    # Pages of finished messages are read backwards from this index.
    Index(
        "ix_messages_finished",
        "conversation_id",
        "position",
        "id",
        postgresql_where=text("status <> 'in_progress'"),
    ),
    # Open messages are few: hydrate and the sweeper find them without reading finished ones.
    Index(
        "ix_messages_open",
        "conversation_id",
        "id",
        postgresql_where=text("status = 'in_progress'"),
    ),
    # The newest message whose publisher gave no id; events without an id may belong to it.
    Index(
        "ix_messages_anonymous",
        "conversation_id",
        "position",
        postgresql_where=text("anonymous"),
    ),
    postgresql_with=_IN_LINE,
)

# No foreign key to messages: it would lock the message's row at every append, and write that to the
# log. Chunks are only written under the conversation's lock, together with their message.
chunks = Table(
    "chunks",
    metadata,
    _id("conversation_id"),
    _id("message_id"),
    Column("ordinal", Integer, nullable=False),
    # What one write added to one run, as deflated JSON (see `message_rows`).
    Column("body", LargeBinary, nullable=False),
    Column("tape", LargeBinary, nullable=False),
    PrimaryKeyConstraint("conversation_id", "message_id", "ordinal"),
    CheckConstraint("ordinal >= 0", name="ordinal_counts"),
    postgresql_with=_IN_LINE,
)

# Not columns of messages: finished rows are large, and each renewal would write the text again.
# fillfactor 50 leaves room for the new version of a row in its page (a HOT update).
leases = Table(
    "leases",
    metadata,
    _id("conversation_id"),
    _id("message_id"),
    _id("holder", nullable=True),
    _time("until"),
    _flag("fenced"),
    _time("told_at"),
    PrimaryKeyConstraint("conversation_id", "message_id"),
    ForeignKeyConstraint(
        ["conversation_id", "message_id"], ["messages.conversation_id", "messages.id"]
    ),
    CheckConstraint("(holder IS NULL) = (until IS NULL)", name="whole"),
    CheckConstraint("told_at IS NULL OR holder IS NULL", name="told_ends"),
    # The leases whose stop is not acknowledged are few. Not indexed by `until`, because then every
    # renewal would have to update the index.
    Index(
        "ix_leases_untold",
        "conversation_id",
        "message_id",
        postgresql_where=text("told_at IS NULL"),
    ),
    postgresql_with={"fillfactor": "50"},
)

# Which agent is about to answer which prompt. A claim is over once the prompt has a response.
claims = Table(
    "claims",
    metadata,
    _id("conversation_id"),
    _id("prompt_id"),
    _id("holder"),
    _time("until", nullable=False),
    PrimaryKeyConstraint("conversation_id", "prompt_id"),
    ForeignKeyConstraint(
        ["conversation_id", "prompt_id"],
        ["messages.conversation_id", "messages.id"],
        ondelete="CASCADE",
    ),
)

replays = Table(
    "replays",
    metadata,
    _id("conversation_id"),
    _id("id"),
    _id("message_id"),
    _id("channel"),
    Column("mode", Text, nullable=False),
    Column("speed", DOUBLE_PRECISION, nullable=False),
    Column("from_seq", Integer, nullable=False),
    Column("max_rate", DOUBLE_PRECISION, nullable=False),
    Column("state", Text, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("done", Integer, nullable=False, server_default=text("0")),
    Column("seconds", DOUBLE_PRECISION, nullable=False),
    _id("asked_by"),
    _id("idempotency_key", nullable=True),
    Column("request", LargeBinary, nullable=False),
    Column("error", LargeBinary),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    _flag("cancel_asked"),
    _id("lease_holder", nullable=True),
    _time("lease_until"),
    _time("created_at", nullable=False),
    _time("started_at"),
    _time("finished_at"),
    Column("seconds_done", DOUBLE_PRECISION, nullable=False, server_default=text("0")),
    # The generation of the replayed stream, one more after each gap, and the chunk it began at.
    Column("gen", Integer, nullable=False, server_default=text("1")),
    Column("gen_from", Integer, nullable=False, server_default=text("0")),
    # The schedule's summary, as JSON.
    Column("plan", LargeBinary, nullable=False, server_default=text("'\\x7b7d'::bytea")),
    PrimaryKeyConstraint("conversation_id", "id"),
    UniqueConstraint("conversation_id", "idempotency_key"),
    ForeignKeyConstraint(["conversation_id"], ["conversations.id"]),
    CheckConstraint("mode IN ('stream', 'repair')", name="mode_known"),
    CheckConstraint(_one_of("state", REPLAY_STATES), name="state_known"),
    CheckConstraint("speed >= 0 AND speed <= 1000", name="speed_in_range"),
    CheckConstraint("from_seq >= 0", name="from_seq_counts"),
    CheckConstraint("max_rate > 0", name="max_rate_positive"),
    CheckConstraint("done >= 0 AND done <= chunks", name="progress_in_range"),
    CheckConstraint("attempts >= 0", name="attempts_count"),
    CheckConstraint(
        "(state IN ('done', 'failed', 'cancelled')) = (finished_at IS NOT NULL)",
        name="finished_when_terminal",
    ),
    CheckConstraint("state <> 'running' OR started_at IS NOT NULL", name="started_when_running"),
    CheckConstraint("(lease_holder IS NULL) = (lease_until IS NULL)", name="lease_whole"),
    CheckConstraint("lease_holder IS NULL OR state = 'running'", name="leased_when_running"),
    CheckConstraint("seconds_done >= 0", name="seconds_done_counts"),
    CheckConstraint("gen >= 1", name="gen_counts_from_1"),
    CheckConstraint("gen_from >= 0 AND gen_from <= chunks", name="gen_from_in_range"),
    Index("ix_replays_id", "id"),
    Index(
        "ix_replays_due",
        "created_at",
        postgresql_where=text("state IN ('queued', 'running')"),
    ),
    Index("ix_replays_newest", text("created_at DESC"), text("id DESC")),
)

# One row: the oldest revision whose code can run on this schema. See `migrations.compatible`.
schema_floor = Table(
    "schema_floor",
    metadata,
    _id("revision"),
    Column("alone", Boolean, nullable=False, server_default=text("true")),
    PrimaryKeyConstraint("alone"),
    CheckConstraint("alone", name="alone"),
)

# What Ably last answered about each of the deployment's keys, as JSON. Contains no secret.
key_capabilities = Table(
    "key_capabilities",
    metadata,
    _id("key_name"),
    Column("capability", LargeBinary, nullable=False),
    PrimaryKeyConstraint("key_name"),
)

# Append-only: a trigger, created by the migration, rejects UPDATE, DELETE and TRUNCATE.
audit = Table(
    "audit",
    metadata,
    # Empty for actions that do not concern a conversation.
    _id("conversation_id"),
    Column("id", BigInteger, Identity(always=True), nullable=False),
    _time("at", nullable=False),
    _id("actor"),
    _id("action"),
    _id("target", nullable=True),
    _id("address", nullable=True),
    _id("outcome"),
    Column("detail", LargeBinary),
    PrimaryKeyConstraint("conversation_id", "id"),
    Index("ix_audit_newest", text("id DESC")),
)
