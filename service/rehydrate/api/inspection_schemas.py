"""JSON of the inspection routes: conversations, a message's timeline, health."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from rehydrate.api.schemas import PositionOut, ReasonOut
from rehydrate.core.event import Status
from rehydrate.core.replay.chunks import Source
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.wire import timestamp

if TYPE_CHECKING:
    from rehydrate.core.replay.chunks import Span
    from rehydrate.hydrate.inspect import Check, Inspected, ServiceHealth
    from rehydrate.ports import LeaseSeen, Listed


class ListedOut(BaseModel):
    """A conversation. ``streaming``: its number of open responses."""

    conversation_id: str
    channel: str
    created_at: str
    last_at: str | None
    streaming: int
    opens_with: str | None
    opens_role: str | None
    erased: bool


class ListedsOut(BaseModel):
    """Conversations. ``older``: the ``before`` cursor of the next page."""

    conversations: list[ListedOut]
    older: str | None


class DatabaseOut(BaseModel):
    """The status of a message in the database, and the seq that it reaches there."""

    status: Status
    seq: int | None


class LeaseOut(BaseModel):
    """The publisher's lease. ``told_at``: when Ably acknowledged the response's ``stop``."""

    holder: str | None
    until: str | None
    expired: bool
    fenced: bool
    told_at: str | None


class StretchOut(BaseModel):
    """Consecutive chunks from one source.

    ``first``, ``last``: their seqs, if they have any. ``whole``: the text was imported at once.
    ``offsets_ms``: the time of each chunk, relative to ``begins_at``; ``characters``: its length.
    """

    source: Source
    first: int | None
    last: int | None
    whole: bool
    offsets_ms: list[int]
    characters: list[int]


class WatermarkOut(BaseModel):
    """The position up to which channel history is recorded in the database."""

    serial: str | None
    at: str
    read_at: str


class TimelineOut(BaseModel):
    """The timeline of a message.

    ``database``: the stored part; null if nothing is stored. ``joined``: number of chunks that each
    chunk in ``stretches`` stands for. Chunks after ``through`` are live: only readers have their times.
    """

    conversation_id: str
    channel: str
    message_id: str
    role: Literal["user", "assistant"]
    status: Status
    prompt_id: str | None
    publisher: str | None
    published: bool
    started_at: str | None
    finished_at: str | None
    begins_at: str | None
    text_characters: int
    through: PositionOut
    gaps: list[tuple[int, int]]
    exact: bool
    repaired: int | None
    database: DatabaseOut | None
    stretches: list[StretchOut]
    joined: int
    lease: LeaseOut | None
    watermark: WatermarkOut | None
    holes: list[tuple[str, str]]
    reasons: list[ReasonOut]


class CheckOut(BaseModel):
    """The result of a check. ``detail``: the fault; ``ms``: response time in milliseconds."""

    status: Literal["ok", "failed"]
    detail: str | None
    ms: float


class RecorderOut(BaseModel):
    """The state of the recorder.

    ``open_responses`` stream in ``open_conversations``; ``oldest_read_at``: the least recent read of
    these. ``untold``: responses that have ended and whose ``stop`` is overdue. ``waiting``:
    conversations queued in this process; ``followed``: conversations that it is attached to.
    """

    status: Literal["ok", "behind", "unknown"]
    behind_s: float
    open_responses: int | None
    open_conversations: int | None
    oldest_read_at: str | None
    untold: int | None
    waiting: int
    followed: int


class HealthOut(BaseModel):
    """The health of a process and its dependencies."""

    status: Literal["ok", "degraded", "failed"]
    at: str
    database: CheckOut
    channel: CheckOut
    recorder: RecorderOut


def listed_body(listed: Listed) -> dict[str, Any]:
    """Convert to the form of `ListedOut`."""
    return {
        "conversation_id": listed.id,
        "channel": listed.channel,
        "created_at": timestamp(listed.created_ms),
        "last_at": timestamp(listed.last_ms),
        "streaming": listed.open,
        "opens_with": listed.opens_with,
        "opens_role": listed.opens_role,
        "erased": listed.erased,
    }


def timeline_body(inspected: Inspected) -> dict[str, Any]:
    """Convert to the form of `TimelineOut`."""
    state, watermark = inspected.state, inspected.watermark
    times = [timing.at_ms for each in inspected.stretches for timing in each.timings]
    began_ms = min(
        [*times, *([state.started_ms] if state.started_ms is not None else [])], default=0
    )
    return {
        "conversation_id": inspected.conversation_id,
        "channel": inspected.channel,
        "message_id": state.id,
        "role": state.role,
        "status": state.status,
        "prompt_id": state.prompt_id,
        "publisher": state.owner.client_id if state.owner else None,
        "published": state.owner is not None,
        "started_at": timestamp(state.started_ms),
        "finished_at": timestamp(state.finished_ms),
        "begins_at": timestamp(began_ms) if began_ms else None,
        "text_characters": len(spoken_text(state.parts())),
        "through": state.through._asdict(),
        "gaps": state.gaps(),
        "exact": state.exact,
        "repaired": state.repaired,
        "database": inspected.stored
        and dict(zip(("status", "seq"), inspected.stored, strict=True)),
        "stretches": [_span_body(each, began_ms) for each in inspected.stretches],
        "joined": inspected.joined,
        "lease": inspected.lease and _lease_body(inspected.lease),
        "watermark": watermark
        and {
            "serial": watermark.serial,
            "at": timestamp(watermark.timestamp_ms),
            "read_at": timestamp(watermark.read_at_ms),
        },
        "holes": [[timestamp(hole.from_ms), timestamp(hole.to_ms)] for hole in inspected.holes],
        "reasons": [reason._asdict() for reason in inspected.reasons],
    }


def _span_body(span: Span, began_ms: int) -> dict[str, Any]:
    return {
        "source": span.source,
        "first": span.first,
        "last": span.last,
        "whole": span.is_whole,
        "offsets_ms": [timing.at_ms - began_ms for timing in span.timings],
        "characters": [timing.length for timing in span.timings],
    }


def _lease_body(lease: LeaseSeen) -> dict[str, Any]:
    return {
        "holder": lease.holder,
        "until": timestamp(lease.until_ms),
        "expired": bool(lease.expired),
        "fenced": lease.fenced,
        "told_at": timestamp(lease.stop_acked_ms),
    }


def health_body(health: ServiceHealth) -> dict[str, Any]:
    """Convert to the form of `HealthOut`."""
    backlog = health.backlog
    behind = "behind" if health.behind_s or (backlog and backlog.untold) else "ok"
    recorder = "unknown" if backlog is None else behind
    worst = "ok" if (health.channel.fault, recorder) == (None, "ok") else "degraded"
    return {
        "status": "failed" if health.database.fault else worst,
        "at": timestamp(health.now_ms),
        "database": _check_body(health.database),
        "channel": _check_body(health.channel),
        "recorder": {
            "status": recorder,
            "behind_s": round(health.behind_s, 3),
            "open_responses": backlog and backlog.open,
            "open_conversations": backlog and backlog.conversations,
            "oldest_read_at": timestamp(backlog.oldest_ms) if backlog else None,
            "untold": backlog and backlog.untold,
            "waiting": health.waiting,
            "followed": health.followed,
        },
    }


def _check_body(check: Check) -> dict[str, Any]:
    status = "failed" if check.fault else "ok"
    return {"status": status, "detail": check.fault, "ms": round(check.ms, 3)}
