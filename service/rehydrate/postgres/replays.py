"""Replays and the audit of admins' acts, in Postgres; any process may take the next replay.

A replay that runs has a lease. Who claims one holds an advisory lock meanwhile, so that the limits
hold exactly; `SKIP LOCKED` passes over a row that is being cancelled or erased.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rehydrate.core.json import dump
from rehydrate.core.positions import Cursor
from rehydrate.core.replay.requests import AuditEntry, Replay, ReplayTerms
from rehydrate.errors import BadParameter, Busy, Conflict
from rehydrate.postgres.attributes import parsed
from rehydrate.postgres.message_rows import as_ms, as_time, storable
from rehydrate.postgres.pool import Pool, Session

MOST_WAITING = 1_000
"""Replays that have not ended: further ones are refused."""

_CLAIMING = 0x7265706C6179
"""The advisory lock of whoever claims ("replay")."""

_COLUMNS = """
    conversation_id, id, message_id, channel, mode, speed, from_seq, max_rate, state, chunks, done,
    seconds, seconds_done, asked_by, request, plan, error, attempts, gen, gen_from, cancel_asked,
    created_at, started_at, finished_at
"""

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_WAITING = "SELECT count(*) FROM replays WHERE state IN ('queued', 'running')"
_KNOWN = f"SELECT {_COLUMNS} FROM replays WHERE conversation_id = $1 AND idempotency_key = $2"  # noqa: S608 - no value in it
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

_CLAIM = f"""
    WITH held AS (
        SELECT channel FROM replays WHERE state = 'running' AND lease_until > clock_timestamp()
    ), next AS (
        SELECT conversation_id, id FROM replays AS r
        WHERE r.state IN ('queued', 'running')
            AND (r.lease_until IS NULL OR r.lease_until <= clock_timestamp())
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
"""$1 for whom, $2 for how many seconds, $3 how many in all, $4 how many on a channel."""

_KEEP = """
    UPDATE replays SET lease_until = clock_timestamp() + make_interval(secs => $4),
        attempts = CASE WHEN $5 > done THEN 0 ELSE attempts END,
        done = $5, seconds_done = $6, gen = $7, gen_from = $8
    WHERE conversation_id = $1 AND id = $2 AND lease_holder = $3 AND state = 'running'
    RETURNING cancel_asked
"""

_RELEASE = """
    UPDATE replays SET lease_holder = NULL, lease_until = NULL, done = $4, seconds_done = $5,
        attempts = greatest(attempts - 1, 0)
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

_NOTE = """
    INSERT INTO audit (conversation_id, at, actor, action, target, address, outcome, detail)
    VALUES ($1, date_trunc('milliseconds', clock_timestamp()), $2, $3, $4, $5, $6, $7)
"""
_AUDITED = """
    SELECT id, conversation_id, at, actor, action, target, address, outcome, detail FROM audit
    WHERE id < $2 ORDER BY id DESC LIMIT $1
"""
_NEWEST = 2**63 - 1


class PostgresReplays:
    """See `rehydrate.ports.Replays`; a base of the store."""

    _readers: Pool
    _writers: Pool

    async def add_replay(
        self, replay: Replay, *, request: bytes, key: str | None, note: AuditEntry
    ) -> Replay:
        """Queue *replay*, or find the one that was asked for by the same *key* and *request*.

        Raises:
            Conflict: the key was used for another request.
            Busy: too many replays wait.
        """
        terms = replay.terms
        async with self._writers.transaction() as session:
            if (await session.fetch(_WAITING))[0][0] >= MOST_WAITING:
                raise Busy(f"{MOST_WAITING} replays wait; try again")
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
                await _write_note(session, note)
                return _replay(rows[0])
            known = (await session.fetch(_KNOWN, replay.conversation_id, key))[0]
        if known["request"] != request:
            raise Conflict("the Idempotency-Key was used for another request")
        return _replay(known)

    async def find_replay(self, replay_id: str) -> Replay | None:
        """The replay with that id."""
        if not storable(replay_id):
            return None
        rows = await self._readers.read(_FIND, replay_id)
        return _replay(rows[0]) if rows else None

    async def replays(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[Replay], Cursor | None]:
        """Replays, the newest first, and the cursor of the next page."""
        if before is None:
            rows = await self._readers.read(_LIST, limit + 1)
        else:
            created = _created(before)
            rows = await self._readers.read(_LIST_BEFORE, limit + 1, created, before.message_id)
        found = [_replay(row) for row in rows[:limit]]
        more = len(rows) > limit
        return found, Cursor(str(found[-1].created_ms), found[-1].id) if more else None

    async def claim_replay(
        self, holder: str, lease_s: float, *, at_once: int, per_channel: int
    ) -> Replay | None:
        """Take the oldest replay that nobody holds, unless as many run as may; None if none."""
        async with self._writers.transaction() as session:
            await session.execute(_LOCK, _CLAIMING)
            rows = await session.fetch(_CLAIM, holder, lease_s, at_once, per_channel)
        return _replay(rows[0]) if rows else None

    async def keep_replay(self, replay: Replay, holder: str, lease_s: float) -> bool | None:
        """Note how far *replay* is, and keep it; whether it is to be cancelled. None: it is lost."""
        async with self._writers.transaction() as session:
            rows = await session.fetch(
                _KEEP,
                replay.conversation_id,
                replay.id,
                holder,
                lease_s,
                replay.done,
                replay.seconds_done,
                replay.gen,
                replay.gen_from,
            )
        return bool(rows[0][0]) if rows else None

    async def release_replay(self, replay: Replay, holder: str) -> None:
        """Give *replay* back, for another process to go on with at once."""
        progress = (replay.done, replay.seconds_done)
        async with self._writers.transaction() as session:
            await session.execute(_RELEASE, replay.conversation_id, replay.id, holder, *progress)

    async def end_replay(self, replay: Replay, holder: str, note: AuditEntry) -> bool:
        """Note how *replay* ended; False if it was not *holder*'s any more."""
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
                await _write_note(session, note)
        return tag == "UPDATE 1"

    async def cancel_replay(self, replay_id: str, note: AuditEntry) -> bool:
        """Ask that a replay end; False if that changes nothing."""
        async with self._writers.transaction() as session:
            for sql in (_CANCEL_QUEUED, _CANCEL_RUNNING):
                if await session.execute(sql, replay_id) == "UPDATE 1":
                    await _write_note(session, note)
                    return True
            await _write_note(session, note._replace(outcome="unchanged"))
        return False

    async def note(self, entry: AuditEntry) -> None:
        """Keep *entry*, for good."""
        async with self._writers.transaction() as session:
            await _write_note(session, entry)

    async def audit(
        self, *, limit: int, before: Cursor | None
    ) -> tuple[list[AuditEntry], Cursor | None]:
        """Acts of admins, the newest first, and the cursor of the next page."""
        below = _NEWEST if before is None else _number(before)
        rows = await self._readers.read(_AUDITED, limit + 1, below)
        found = [_entry(row) for row in rows[:limit]]
        return found, Cursor(str(found[-1].id), "") if len(rows) > limit else None


async def _write_note(session: Session, entry: AuditEntry) -> None:
    await session.execute(
        _NOTE,
        entry.conversation_id,
        entry.actor,
        entry.action,
        entry.target,
        entry.address,
        entry.outcome,
        None if entry.detail is None else dump(entry.detail),
    )


def _created(before: Cursor) -> datetime | None:
    try:
        return as_time(int(before.position))
    except (ValueError, OverflowError, OSError) as error:
        raise BadParameter("before", "before is a cursor of an earlier answer") from error


def _number(before: Cursor) -> int:
    text = before.position
    if text.isascii() and text.isdigit() and len(text) <= len(str(_NEWEST)):
        return min(int(text), _NEWEST)
    raise BadParameter("before", "before is a cursor of an earlier answer")


def _entry(row: Any) -> AuditEntry:
    return AuditEntry(
        row["actor"],
        row["action"],
        row["outcome"],
        row["conversation_id"],
        row["target"],
        row["address"],
        row["detail"] and parsed(row["detail"]),
        row["id"],
        as_ms(row["at"]),
    )


def _replay(row: Any) -> Replay:
    plan: Mapping[str, Any] = parsed(row["plan"])
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
        seconds=row["seconds"],
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
        error=row["error"] and parsed(row["error"]),
    )
