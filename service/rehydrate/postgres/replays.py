"""Replay requests and the admin audit log in Postgres.

Any process may claim the next replay; a running one is held by a lease. A claim counts the running
replays before it takes one, so claims take turns by an advisory lock: otherwise two at a time could
exceed the limits. `SKIP LOCKED` passes over a row that is being cancelled or erased.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rehydrate.core.json import dump, load
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.schedule import MAX_SECONDS, AuditEntry, Replay, ReplayTerms
from rehydrate.errors import BadParameter, Busy, Conflict
from rehydrate.ports.store import ReplayOrder
from rehydrate.postgres import statements
from rehydrate.postgres.message_rows import as_ms, cursor_time, storable
from rehydrate.postgres.pool import Pool, Session
from rehydrate.postgres.store_clock import StoreClock, far_s

MAX_WAITING = 1_000
"""Replays that may be queued or running; further requests are rejected."""

_CLAIM_LOCK = 0x7265706C6179
"""Key of the advisory lock that a claim holds (the bytes of "replay")."""

_COLUMNS = """
    conversation_id, id, message_id, channel, mode, speed, from_seq, max_rate, state, chunks, done,
    seconds, seconds_done, asked_by, request, plan, error, attempts, gen, gen_from, cancel_asked,
    created_at, started_at, finished_at
"""

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_WAITING = "SELECT count(*) FROM replays WHERE state IN ('queued', 'running')"
_FIND_BY_KEY = f"SELECT {_COLUMNS} FROM replays WHERE conversation_id = $1 AND idempotency_key = $2"  # noqa: S608 - no value in it
_FIND = f"SELECT {_COLUMNS} FROM replays WHERE id = $1"  # noqa: S608 - as above
_LIST = f"SELECT {_COLUMNS} FROM replays ORDER BY created_at DESC, id DESC LIMIT $1"  # noqa: S608 - as above
_LIST_BEFORE = f"""
    SELECT {_COLUMNS} FROM replays WHERE (created_at, id) < ($2, $3)
    ORDER BY created_at DESC, id DESC LIMIT $1
"""  # noqa: S608 - as above

_ADD = f"""
    INSERT INTO replays (
        conversation_id, id, message_id, channel, mode, speed, from_seq, max_rate, state, chunks,
        seconds, asked_by, idempotency_key, request, plan, created_at
    ) VALUES (
        $1, $2, $3, $4, $5, $6, $7, $8, 'queued', $9, $10, $11, $12, $13, $14,
        date_trunc('milliseconds', clock_timestamp())
    ) ON CONFLICT (conversation_id, idempotency_key) DO NOTHING RETURNING {_COLUMNS}
"""  # noqa: S608 - as above

_FREE = """
    (
        lease_until IS NULL OR (lease_until <= clock_timestamp() AND $5)
        OR (lease_until > clock_timestamp() + make_interval(secs => $6) AND $7)
    )
"""

_CLAIM = f"""
    WITH held AS (
        SELECT channel FROM replays WHERE state = 'running' AND NOT {_FREE}
    ), next AS (
        SELECT conversation_id, id FROM replays AS r
        WHERE r.state IN ('queued', 'running') AND {_FREE}
            AND (SELECT count(*) FROM held) < $3
            AND (SELECT count(*) FROM held WHERE held.channel = r.channel) < $4
        ORDER BY r.created_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    UPDATE replays SET state = 'running', lease_holder = $1, attempts = attempts + 1,
        lease_until = clock_timestamp() + make_interval(secs => $2),
        started_at = coalesce(started_at, clock_timestamp())
    WHERE (conversation_id, id) = (SELECT conversation_id, id FROM next)
    RETURNING {_COLUMNS}
"""  # noqa: S608 - as above
"""$1 holder, $2 lease in seconds, $3 limit of running replays, $4 limit per channel.

$5 whether leases that have expired are free, and $7 those that expire more than $6 seconds ahead.
"""

_RENEW = """
    UPDATE replays SET lease_until = clock_timestamp() + make_interval(secs => $4),
        attempts = CASE WHEN $5 > done THEN 0 ELSE attempts END,
        done = $5, seconds_done = $6, gen = $7, gen_from = $8
    WHERE conversation_id = $1 AND id = $2 AND lease_holder = $3 AND state = 'running'
    RETURNING CASE WHEN request = '' THEN 'erased' WHEN cancel_asked THEN 'cancel' ELSE 'play' END
"""

_RELEASE = """
    UPDATE replays SET lease_holder = NULL, lease_until = NULL, done = $4, seconds_done = $5,
        attempts = greatest(attempts - 1, $6)
    WHERE conversation_id = $1 AND id = $2 AND lease_holder = $3 AND state = 'running'
"""

_END = """
    UPDATE replays SET state = $4, done = $5, seconds_done = $6, error = $7,
        finished_at = clock_timestamp(), lease_holder = NULL, lease_until = NULL
    WHERE conversation_id = $1 AND id = $2 AND lease_holder = $3 AND state = 'running'
"""

_CANCEL_QUEUED = """
    UPDATE replays SET state = 'cancelled', finished_at = clock_timestamp(), cancel_asked = true
    WHERE id = $1 AND state = 'queued'
"""
_CANCEL_RUNNING = """
    UPDATE replays SET cancel_asked = true WHERE id = $1 AND state = 'running' AND NOT cancel_asked
"""

_ADD_AUDIT = """
    INSERT INTO audit (conversation_id, at, actor, action, target, address, outcome, detail)
    VALUES ($1, date_trunc('milliseconds', clock_timestamp()), $2, $3, $4, $5, $6, $7)
"""
_AUDITED = """
    SELECT id, conversation_id, at, actor, action, target, address, outcome, detail FROM audit
    WHERE id < $2 ORDER BY id DESC LIMIT $1
"""
_NEWEST = 2**63 - 1


class PostgresReplays:
    """The part of `PostgresStore` that implements `rehydrate.ports.ReplayStore`."""

    _readers: Pool
    _writers: Pool
    _clock: StoreClock

    async def add_replay(
        self, replay: Replay, *, request: bytes, key: str | None, note: AuditEntry
    ) -> Replay:
        """Queue *replay*, or return the one that was queued with the same *key* and *request*."""
        terms = replay.terms
        async with self._writers.transaction() as session:
            if (await session.fetch(_WAITING))[0][0] >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} replays are queued or running; retry later")
            rows = await session.fetch(
                _ADD,
                replay.conversation_id,
                replay.id,
                replay.response_id,
                replay.channel,
                terms.mode,
                terms.speed,
                terms.from_seq,
                terms.max_rate,
                replay.chunks,
                replay.seconds,
                replay.asked_by,
                key,
                request,
                dump(dict(replay.plan)),
            )
            if rows:
                await _add_audit(session, note)
                return _replay(rows[0])
            earlier = (await session.fetch(_FIND_BY_KEY, replay.conversation_id, key))[0]
        if earlier["request"] != request:
            raise Conflict("the Idempotency-Key was used for another request")
        return _replay(earlier)

    async def find_replay(self, replay_id: str) -> Replay | None:
        """Return the replay with that id, or None."""
        if not storable(replay_id):
            return None
        rows = await self._readers.read(_FIND, replay_id)
        return _replay(rows[0]) if rows else None

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Return replays, newest first, and the cursor of the next page."""
        if before is None:
            rows = await self._readers.read(_LIST, limit + 1)
        else:
            created = cursor_time(before)
            rows = await self._readers.read(_LIST_BEFORE, limit + 1, created, before.message_id)
        found = [_replay(row) for row in rows[:limit]]
        more = len(rows) > limit
        return found, Cursor(str(found[-1].created_ms), found[-1].id) if more else None

    async def claim_replay(
        self, holder: str, lease_s: float, *, at_once: int, per_channel: int
    ) -> Replay | None:
        """Claim the oldest replay that has no holder; None if none is due, or enough run."""
        async with self._writers.transaction() as session:
            await session.execute(_LOCK, _CLAIM_LOCK)
            past, far = await believed(self._clock, session, lease_s)
            limits = (at_once, per_channel, past, far_s(lease_s), far)
            rows = await session.fetch(_CLAIM, holder, lease_s, *limits)
        return _replay(rows[0]) if rows else None

    async def keep_replay(self, replay: Replay, holder: str, lease_s: float) -> ReplayOrder | None:
        """Store the progress of *replay* and renew its lease; return what *holder* has to do."""
        async with self._writers.transaction() as session:
            rows = await session.fetch(
                _RENEW,
                replay.conversation_id,
                replay.id,
                holder,
                lease_s,
                replay.done,
                replay.seconds_done,
                replay.gen,
                replay.gen_from,
            )
        return rows[0][0] if rows else None

    async def release_replay(self, replay: Replay, holder: str, *, begun: bool) -> None:
        """Store the progress of *replay* and release it, so another process can continue it."""
        progress = (replay.done, replay.seconds_done, int(begun))
        async with self._writers.transaction() as session:
            await session.execute(_RELEASE, replay.conversation_id, replay.id, holder, *progress)

    async def end_replay(self, replay: Replay, holder: str, note: AuditEntry) -> bool:
        """Store how *replay* ended; return False if *holder* has lost it."""
        async with self._writers.transaction() as session:
            tag = await session.execute(
                _END,
                replay.conversation_id,
                replay.id,
                holder,
                replay.state,
                replay.done,
                replay.seconds_done,
                None if replay.error is None else dump(replay.error),
            )
            if tag == "UPDATE 1":
                await _add_audit(session, note)
        return tag == "UPDATE 1"

    async def cancel_replay(self, replay_id: str, note: AuditEntry) -> bool:
        """Request the cancellation of a replay; return False if that changes nothing."""
        async with self._writers.transaction() as session:
            for sql in (_CANCEL_QUEUED, _CANCEL_RUNNING):
                if await session.execute(sql, replay_id) == "UPDATE 1":
                    await _add_audit(session, note)
                    return True
            await _add_audit(session, note._replace(outcome="unchanged"))
        return False

    async def note(self, entry: AuditEntry) -> None:
        """Append *entry* to the audit log."""
        async with self._writers.transaction() as session:
            await _add_audit(session, entry)

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Return audit entries, newest first, and the cursor of the next page."""
        below = _NEWEST if before is None else _number(before)
        rows = await self._readers.read(_AUDITED, limit + 1, below)
        found = [_entry(row) for row in rows[:limit]]
        return found, Cursor(str(found[-1].id), "") if len(rows) > limit else None


async def believed(clock: StoreClock, session: Session, lease_s: float) -> tuple[bool, bool]:
    """Compare the clocks; return whether leases that expired count, and far ones."""
    sent_s = clock.now_s()
    clock.sample((await session.fetch(statements.NOW_MS))[0][0] / 1000, sent_s)
    return clock.believes(lease_s)


async def _add_audit(session: Session, entry: AuditEntry) -> None:
    await session.execute(
        _ADD_AUDIT,
        entry.conversation_id,
        entry.actor,
        entry.action,
        entry.target,
        entry.address,
        entry.outcome,
        None if entry.detail is None else dump(entry.detail),
    )


def _number(before: Cursor) -> int:
    text = before.position
    if text.isascii() and text.isdigit() and len(text) <= len(str(_NEWEST)):
        return min(int(text), _NEWEST)
    raise BadParameter("before", "before must be a cursor from an earlier answer")


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        row["actor"],
        row["action"],
        row["outcome"],
        row["conversation_id"],
        row["target"],
        row["address"],
        row["detail"] and load(row["detail"]),
        row["id"],
        as_ms(row["at"]),
    )


def _replay(row: Any) -> Replay:
    plan: Mapping[str, Any] = load(row["plan"])
    times = [
        None if row[name] is None else as_ms(row[name]) for name in ("started_at", "finished_at")
    ]
    return Replay(
        conversation_id=row["conversation_id"],
        id=row["id"],
        response_id=row["message_id"],
        channel=row["channel"],
        terms=ReplayTerms(
            row["mode"], row["speed"], row["channel"], row["from_seq"], row["max_rate"]
        ),
        state=row["state"],
        chunks=row["chunks"],
        seconds=min(row["seconds"], MAX_SECONDS),  # earlier releases stored up to Infinity
        asked_by=row["asked_by"],
        created_ms=as_ms(row["created_at"]),
        plan=plan,
        done=row["done"],
        seconds_done=row["seconds_done"],
        gen=row["gen"],
        gen_from=row["gen_from"],
        attempts=row["attempts"],
        cancel_asked=row["cancel_asked"],
        started_ms=times[0],
        finished_ms=times[1],
        error=row["error"] and load(row["error"]),
    )
