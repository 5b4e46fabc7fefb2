"""The SQL statements of the store, except those of replays and the audit log.

Every statement of readers and recorders is confined to one conversation, so its cost does not
depend on the size of the database, and the schema can be sharded by conversation. The statements
of the sweeper, the inspector and the webhooks, which span conversations, use partial indexes on
open responses and outstanding leases.
"""

from __future__ import annotations

_CONVERSATION = (
    "id, channel, created_at, watermark_serial, watermark_at, read_at, holes, tombstone, metadata"
)

# Ordering by the index's columns, conversation first, lets Postgres read the page backwards from
# the index without a sort (see `store._READING`). The first message that is beyond $3 bytes shows
# that there are more: it comes without its content, unless it is the newest of all. The window has
# no order of its own, which would sort the rows again: they come in that of the subquery.
_PAGE = """
    SELECT 1, position, id, CASE WHEN bytes <= $3 OR place = 1 THEN wire END,
        NULL::bytea[], NULL::bytea[]
    FROM (
        SELECT position, id, wire, row_number() OVER newest_first AS place,
            sum(octet_length(wire)) OVER newest_first AS bytes
        FROM (
            SELECT conversation_id, position, id, wire FROM messages
            WHERE conversation_id = $1 AND status <> 'in_progress' {before}
            ORDER BY conversation_id DESC, position DESC, id DESC LIMIT $2
        ) AS newest
        WINDOW newest_first AS (ROWS UNBOUNDED PRECEDING)
    ) AS page
    WHERE bytes - octet_length(wire) <= $3 OR place = 2
"""

# The row is one JSON array, so that all three parts of LOAD have the same columns.
_ROW = """
    SELECT 0 AS kind, channel AS position,
        json_build_array(
            extract(epoch FROM created_at) * 1000, watermark_serial,
            extract(epoch FROM watermark_at) * 1000, extract(epoch FROM read_at) * 1000,
            holes, tombstone
        )::text AS id,
        metadata AS body, NULL::bytea[] AS bodies, NULL::bytea[] AS tapes
    FROM conversations WHERE id = $1
"""

# ORDER BY in the subquery: array_agg receives the chunks in the order of the primary key.
_OPEN = """
    SELECT 2, m.position, m.id, m.facts, c.bodies, c.tapes
    FROM messages AS m, LATERAL (
        SELECT array_agg(body) AS bodies, array_agg(tape) AS tapes FROM (
            SELECT body, tape FROM chunks
            WHERE conversation_id = $1 AND message_id = m.id
            ORDER BY conversation_id, message_id, ordinal
        ) AS ordered
    ) AS c
    WHERE m.conversation_id = $1 AND m.status = 'in_progress'
"""

LOAD = f"{_ROW} UNION ALL {_PAGE.format(before='')} UNION ALL {_OPEN}"
"""$1 conversation, $2 finished messages, $3 their bytes. Kind 0 is the row, 1 a finished message, 2 an
open one.

One statement, so that all parts are from one snapshot and one round trip.
"""

LOAD_BEFORE = f"{_ROW} UNION ALL {_PAGE.format(before='AND (position, id) < ($4, $5)')}"
"""As `LOAD`, for an older page without open messages, which ends before $4 position, $5 id."""

_WHOLE = """
    SELECT m.id, m.position, m.facts, m.wire, m.tape, c.bodies, c.tapes, c.ordinals
    FROM messages AS m LEFT JOIN LATERAL (
        SELECT array_agg(body) AS bodies, array_agg(tape) AS tapes, array_agg(ordinal) AS ordinals
        FROM (
            SELECT body, tape, ordinal FROM chunks
            WHERE conversation_id = $1 AND message_id = m.id
            ORDER BY conversation_id, message_id, ordinal
        ) AS ordered
    ) AS c ON m.status = 'in_progress'
    WHERE m.conversation_id = $1 AND m.id = ANY({ids})
"""

STATES = _WHOLE.format(ids="$2::text[]")
"""$1 conversation, $2 message ids."""

# Finished and open messages have an index each, so there are two subselects.
_AT_SERIALS = """ || ARRAY(
        SELECT id FROM messages WHERE conversation_id = $1 AND status <> 'in_progress'
            AND position = ANY($3::text[])
        UNION ALL
        SELECT id FROM messages WHERE conversation_id = $1 AND status = 'in_progress'
            AND position = ANY($3::text[])
    )"""

_ANONYMOUS = """ || ARRAY(
        SELECT id FROM messages WHERE conversation_id = $1 AND anonymous AND position >= coalesce((
            SELECT position FROM messages
            WHERE conversation_id = $1 AND anonymous AND position <= $4
            ORDER BY conversation_id DESC, position DESC LIMIT 1
        ), '')
    )"""

STATES_AT_SERIALS = _WHOLE.format(ids=f"$2::text[]{_AT_SERIALS}")
"""As `STATES`, and the messages that begin at the serials $3."""

RELATED = _WHOLE.format(ids=f"$2::text[]{_AT_SERIALS}{_ANONYMOUS}")
"""As `STATES_AT_SERIALS`, and of the anonymous messages the newest one at or before the position $4,
and all later ones."""

CONVERSATIONS = f"""
    SELECT {_CONVERSATION} FROM conversations
    ORDER BY created_at DESC, id DESC LIMIT $1
"""  # noqa: S608 - no value in it

CONVERSATIONS_BEFORE = f"""
    SELECT {_CONVERSATION} FROM conversations WHERE (created_at, id) < ($2, $3)
    ORDER BY created_at DESC, id DESC LIMIT $1
"""  # noqa: S608 - no value in it

ROW = f"SELECT {_CONVERSATION} FROM conversations WHERE id = $1"  # noqa: S608 - no value in it

# Not FOR UPDATE: nothing here changes the key, and inserts into tables that refer to the row (such
# as replays) must not wait for it.
LOCK = f"""
    SELECT {_CONVERSATION} FROM conversations WHERE id = $1 FOR NO KEY UPDATE
"""  # noqa: S608 - no value in it

CREATE = """
    INSERT INTO conversations (id, channel, created_at)
    VALUES ($1, $2, date_trunc('milliseconds', clock_timestamp())) ON CONFLICT DO NOTHING
"""

NOW_MS = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"

INSERT = """
    INSERT INTO messages (
        conversation_id, id, role, status, gen, position, anonymous, prompt_id, started_at,
        finished_at, facts, wire, tape
    ) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
"""

# coalesce: a position never changes once it is set, since cursors of clients refer to it.
UPDATE = """
    UPDATE messages SET
        role = $3, status = $4, gen = $5, position = coalesce(position, $6), anonymous = $7,
        prompt_id = $8, started_at = $9, finished_at = $10, facts = coalesce($11, facts),
        wire = $12, tape = $13
    WHERE conversation_id = $1 AND id = $2
"""

APPEND = """
    INSERT INTO chunks (conversation_id, message_id, ordinal, body, tape)
    VALUES ($1, $2, $3, $4, $5)
"""

DELETE_CHUNKS = """
    DELETE FROM chunks WHERE conversation_id = $1 AND message_id = $2 AND ordinal = ANY($3::int[])
"""

CLEAR_CHUNKS = """
    DELETE FROM chunks WHERE conversation_id = $1 AND message_id = ANY($2::text[])
"""

KEY_CAPABILITY = """
    SELECT capability FROM key_capabilities WHERE key_name = $1
"""

KEEP_KEY_CAPABILITY = """
    INSERT INTO key_capabilities (key_name, capability) VALUES ($1, $2)
    ON CONFLICT (key_name) DO UPDATE SET capability = $2
"""

LEASE = """
    SELECT holder, extract(epoch FROM until)::float8, fenced, told_at IS NOT NULL,
        extract(epoch FROM clock_timestamp())::float8
    FROM leases WHERE conversation_id = $1 AND message_id = $2
"""

# RENEW and GRANT are two statements, because an upsert would lock the row, and write that to the
# log, before it changes it. Renewals are by far the more frequent.
RENEW = """
    UPDATE leases SET holder = $3, told_at = NULL,
        until = clock_timestamp() + make_interval(secs => $4)
    WHERE conversation_id = $1 AND message_id = $2 AND NOT fenced
"""

GRANT = """
    INSERT INTO leases (conversation_id, message_id, holder, until)
    SELECT $1, id, $3, clock_timestamp() + make_interval(secs => $4)
    FROM messages WHERE conversation_id = $1 AND id = $2
    ON CONFLICT DO NOTHING
"""

FENCE = """
    UPDATE leases SET fenced = true, holder = $3,
        until = clock_timestamp() + make_interval(secs => $4)
    WHERE conversation_id = $1 AND message_id = $2
"""

DUE = """
    SELECT extract(epoch FROM clock_timestamp())::float8,
        extract(epoch FROM pg_postmaster_start_time())::float8, due.*
    FROM (SELECT) AS one LEFT JOIN (
        SELECT l.conversation_id, l.message_id, c.channel
        FROM leases AS l JOIN conversations AS c ON c.id = l.conversation_id
        WHERE l.told_at IS NULL
            AND (
                l.until <= clock_timestamp()
                OR l.until > clock_timestamp() + make_interval(secs => $2)
            )
            AND (l.conversation_id, l.message_id) > ($3, $4)
        ORDER BY l.conversation_id, l.message_id LIMIT $1
    ) AS due ON true
"""
"""$1 limit, $2 how far ahead no lease expires, in seconds, $3 and $4 what to continue after.

The first columns are the time, and when the server started. There is always a row, without a lease
if none is due.
"""

STOP_ACKED = """
    INSERT INTO leases (conversation_id, message_id, told_at)
    SELECT $1, id, clock_timestamp() FROM messages
    WHERE conversation_id = $1 AND id = $2 AND status <> 'in_progress'
    ON CONFLICT (conversation_id, message_id) DO UPDATE
    SET told_at = excluded.told_at, holder = NULL, until = NULL
"""

MOVE_WATERMARK = """
    UPDATE conversations SET watermark_serial = $2, watermark_at = $3, read_at = $4, holes = $5,
        tombstone = coalesce($6, tombstone)
    WHERE id = $1
"""

VERSION = (
    "SELECT version_num, pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"
    " FROM alembic_version"
)

FLOOR = "SELECT revision FROM schema_floor"

EXISTING = "SELECT id FROM messages WHERE conversation_id = $1 AND id = ANY($2::text[]) LIMIT 1"

OTHER_OPEN = """
    SELECT count(*) FROM (
        SELECT FROM messages
        WHERE conversation_id = $1 AND status = 'in_progress' AND id <> ALL($2::text[])
        LIMIT $3
    ) AS others
"""
"""$1 conversation, $2 ids of messages not to count, $3 the count to stop at."""

RECENT_MESSAGES = """
    SELECT id FROM messages WHERE conversation_id = $1 AND (
        finished_at IS NULL OR finished_at > clock_timestamp() - interval '1 day'
        OR id IN (SELECT prompt_id FROM claims WHERE conversation_id = $1)
        OR id IN (
            SELECT message_id FROM replays WHERE conversation_id = $1
                AND (finished_at IS NULL OR finished_at > clock_timestamp() - interval '1 day')
        ))
    ORDER BY role, finished_at DESC NULLS FIRST LIMIT $2
"""
"""Messages that are open or claimed, or ended or were replayed within a day; responses first.

$1 conversation, $2 limit.
"""

_ERASE_RUNNING_REPLAYS = """
    UPDATE replays SET cancel_asked = true, request = '', plan = '{}', idempotency_key = NULL
    WHERE conversation_id = $1
"""
"""What is left of a running replay is what its holder needs to publish the stop of the stream."""

DELETE_ALL = (
    "DELETE FROM chunks WHERE conversation_id = $1",
    "DELETE FROM leases WHERE conversation_id = $1",
    "DELETE FROM replays WHERE conversation_id = $1 AND state <> 'running'",
    _ERASE_RUNNING_REPLAYS,
    "DELETE FROM messages WHERE conversation_id = $1",
)

SET_TOMBSTONE = """
    UPDATE conversations SET tombstone = $2, holes = '[]', metadata = NULL,
        watermark_serial = NULL, watermark_at = $3, read_at = $3
    WHERE id = $1
"""

ERASED = """
    SELECT id, (tombstone ->> 'timestamp_ms')::bigint FROM conversations
    WHERE id = ANY($1::text[]) AND tombstone IS NOT NULL
"""

ON_CHANNELS = "SELECT channel, id FROM conversations WHERE channel = ANY($1::text[])"

OVERDUE = """
    SELECT c.id FROM conversations AS c JOIN (
        SELECT conversation_id AS id FROM messages WHERE status = 'in_progress'
        UNION SELECT id FROM conversations WHERE created_at > clock_timestamp() - interval '1 hour'
    ) AS active USING (id)
    WHERE (c.read_at IS NULL OR c.read_at < clock_timestamp() - make_interval(secs => $2))
        AND c.id > $3
    ORDER BY c.id LIMIT $1
"""
"""$1 limit, $2 seconds since the last read, $3 the id to continue after."""

IDLE = """
    SELECT m.conversation_id, m.id, c.channel, (
        SELECT tape FROM chunks AS t
        WHERE t.conversation_id = m.conversation_id AND t.message_id = m.id AND t.tape <> ''
        ORDER BY t.ordinal DESC LIMIT 1
    )
    FROM messages AS m JOIN conversations AS c ON c.id = m.conversation_id
    WHERE m.status = 'in_progress'
        AND m.started_at < $2
        AND NOT EXISTS (
            SELECT FROM leases AS l
            WHERE l.conversation_id = m.conversation_id AND l.message_id = m.id
        )
        AND (m.conversation_id, m.id) > ($3, $4)
    ORDER BY m.conversation_id, m.id LIMIT $1
"""
"""$1 limit, $2 the time before which they began, $3 conversation and $4 message to continue after.

The last column has the timings of the newest stored events.
"""

CLAIM = """
    INSERT INTO claims (conversation_id, prompt_id, holder, until)
    SELECT $1, p.id, $2, clock_timestamp() + make_interval(secs => $3)
    FROM messages AS p LEFT JOIN claims AS c ON c.conversation_id = $1 AND c.prompt_id = p.id
    WHERE p.conversation_id = $1 AND p.role = 'user' AND p.id <> ALL($4::text[])
        AND (
            c.prompt_id IS NULL OR c.holder = $2 OR (c.until <= clock_timestamp() AND $5)
            OR (c.until > clock_timestamp() + make_interval(secs => $6) AND $7)
        )
        AND NOT EXISTS (
            SELECT FROM messages AS r
            WHERE r.conversation_id = $1 AND r.role = 'assistant' AND r.prompt_id = p.id
        )
    ORDER BY p.position, p.id LIMIT 1
    ON CONFLICT (conversation_id, prompt_id)
        DO UPDATE SET holder = excluded.holder, until = excluded.until
    RETURNING prompt_id
"""
"""$1 conversation, which the caller has locked; $2 holder, $3 seconds, $4 ids to leave out.

$5 whether claims that have expired are free, and $7 those that expire more than $6 seconds ahead.
"""

RENEW_CLAIM = """
    UPDATE claims SET until = clock_timestamp() + make_interval(secs => $4)
    WHERE conversation_id = $1 AND prompt_id = $2 AND holder = $3
"""

RELEASE_CLAIM = """
    DELETE FROM claims WHERE conversation_id = $1 AND prompt_id = $2 AND holder = $3
"""

# Each lateral join reads at most a few index entries per conversation. Large first messages are
# not read (8192 bytes: rows up to that size are stored in line).
_LISTED = """
    SELECT c.id, c.channel, c.created_at, c.tombstone IS NOT NULL AS erased, o.open,
        greatest(o.last_at, l.last_at) AS last_at, f.first_wire
    FROM ({page}) AS c
    CROSS JOIN LATERAL (
        SELECT count(*) AS open, max(started_at) AS last_at FROM messages
        WHERE conversation_id = c.id AND status = 'in_progress'
    ) AS o
    LEFT JOIN LATERAL (
        SELECT CASE WHEN octet_length(wire) <= 8192 THEN wire END AS first_wire FROM messages
        WHERE conversation_id = c.id AND status <> 'in_progress'
        ORDER BY conversation_id, position, id LIMIT 1
    ) AS f ON true
    LEFT JOIN LATERAL (
        SELECT finished_at AS last_at FROM messages
        WHERE conversation_id = c.id AND status <> 'in_progress'
        ORDER BY conversation_id DESC, position DESC, id DESC LIMIT 1
    ) AS l ON true
    ORDER BY {order}
"""

_BY_AGE, _BY_ID = "c.created_at DESC, c.id DESC", "c.id"

NEWEST = _LISTED.format(page=CONVERSATIONS, order=_BY_AGE)
"""$1 limit."""

NEWEST_BEFORE = _LISTED.format(page=CONVERSATIONS_BEFORE, order=_BY_AGE)
"""As `NEWEST`, for an older page, which ends before $2 time of creation, $3 id."""

FOUND = _LISTED.format(
    page=f"""
        SELECT {_CONVERSATION} FROM conversations WHERE id >= $2 AND id < $3 AND id > $4
        ORDER BY id LIMIT $1
    """,  # noqa: S608 - no value in it
    order=_BY_ID,
)
"""$1 limit, $2 first id, $3 end of the range of ids (exclusive), $4 the id to continue after."""

FOUND_STREAMING = _LISTED.format(
    page=f"""
        SELECT {_CONVERSATION} FROM conversations WHERE id IN (
            SELECT conversation_id FROM messages
            WHERE status = 'in_progress'
                AND conversation_id >= $2 AND conversation_id < $3 AND conversation_id > $4
            GROUP BY conversation_id ORDER BY conversation_id LIMIT $1
        )
    """,  # noqa: S608 - no value in it
    order=_BY_ID,
)
"""As `FOUND`, for conversations with an open response."""

FOUND_ON_CHANNEL = _LISTED.format(
    page=f"SELECT {_CONVERSATION} FROM conversations WHERE channel = $1",  # noqa: S608 - as above
    order=_BY_ID,
)

LEASE_SEEN = """
    SELECT holder, until, until <= clock_timestamp() AS expired, fenced, told_at
    FROM leases WHERE conversation_id = $1 AND message_id = $2
"""

# The LIMITs bound the cost: beyond them the exact number does not matter to an operator.
BACKLOG = """
    SELECT count(*) AS open, count(DISTINCT c.id) AS conversations,
        min(coalesce(c.read_at, c.created_at)) AS oldest,
        (
            SELECT count(*) FROM (
                SELECT FROM leases WHERE told_at IS NULL AND until <= clock_timestamp() LIMIT 1000
            ) AS due
        ) AS untold
    FROM (
        SELECT conversation_id FROM messages WHERE status = 'in_progress' LIMIT 10000
    ) AS m JOIN conversations AS c ON c.id = m.conversation_id
"""
