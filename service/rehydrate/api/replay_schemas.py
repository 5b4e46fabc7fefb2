"""JSON of the routes for replays and the audit: the request body, and documented responses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, TypeAdapter

from rehydrate.api.schemas import Strict, checked
from rehydrate.core.positions import CHANNEL_LENGTH
from rehydrate.core.replay.schedule import (
    MAX_SECONDS,
    MAX_SPEED,
    MIN_SPEED,
    AuditEntry,
    Mode,
    ReplayState,
    ReplayTerms,
    Schedule,
    listed,
)
from rehydrate.core.wire import timestamp
from rehydrate.replay.admin import CheckedRequest

MAX_LISTED = 10_000
"""Maximum number of channel messages that a dry run lists."""


def _describe_speed(schema: dict[str, Any]) -> None:
    """Describe the speed as what is accepted: 0, or a number in the range."""
    for word in ("type", "minimum", "maximum"):
        del schema[word]
    schema["anyOf"] = [
        {"const": 0, "description": "As fast as allowed."},
        {"type": "number", "minimum": MIN_SPEED, "maximum": MAX_SPEED},
    ]


class ReplayIn(Strict):
    """The terms of a replay."""

    mode: Mode = "stream"
    speed: Annotated[
        float,
        Field(
            ge=0,
            le=MAX_SPEED,
            description=f"Multiple of the original pace. A replay takes at most "
            f"{MAX_SECONDS / 3600:g} hours.",
            json_schema_extra=_describe_speed,
        ),
    ] = 1.0
    channel: Annotated[
        str | None,
        Field(max_length=CHANNEL_LENGTH, description="Channel; null: the conversation's."),
    ] = None
    from_seq: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    max_rate: Annotated[
        float | None,
        Field(gt=0, le=10_000, description="Channel messages per second; null: the default."),
    ] = None
    dry_run: Annotated[bool, Field(description="Return the schedule only.")] = False

    def terms(self) -> ReplayTerms:
        """Convert to the terms that the use case takes."""
        return ReplayTerms(self.mode, self.speed, self.channel, self.from_seq, self.max_rate or 0.0)


_REPLAY_IN = TypeAdapter(ReplayIn)


def replay_asked(body: Any) -> ReplayIn:
    """Validate a parsed *body*.

    Raises:
        BadParameter: the body is invalid; names the path of the first fault.
    """
    return checked(_REPLAY_IN, body)


class PacingOut(BaseModel):
    """How a replay reproduces the timing of its response."""

    pace: Literal["recorded", "even"]
    """``even``: the times of the response's chunks are not recorded."""
    joined: int
    """Number of chunks that share a channel message, to stay within the rate."""
    gaps: list[tuple[int, int]]
    """Missing seqs of the response; the replay then ends as ``incomplete``."""


class ReplayOut(PacingOut):
    """The state of a replay. Times and ``seconds`` are of the replay, not of the response."""

    replay_id: str
    conversation_id: str
    response_id: str
    channel: str
    mode: Mode
    speed: float
    from_seq: int
    max_rate: float
    state: ReplayState
    cancel_asked: bool
    chunks: int
    done: int
    seconds: float
    seconds_done: float
    asked_by: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    error: dict[str, Any] | None


class ReplaysOut(BaseModel):
    """Replays, newest first. ``older``: the ``before`` cursor of the next page."""

    replays: list[ReplayOut]
    older: str | None


class StepOut(BaseModel):
    """One channel message of a schedule. ``joined``: number of chunks in it."""

    seq: int
    at_s: float
    kind: str
    characters: int
    joined: int


class DryRunOut(PacingOut):
    """The schedule of a replay. ``more``: number of channel messages that are not listed."""

    dry_run: Literal[True]
    conversation_id: str
    response_id: str
    channel: str
    mode: Mode
    speed: float
    max_rate: float
    chunks: int
    seconds: float
    schedule: list[StepOut]
    more: int


class AuditOut(BaseModel):
    """An admin action or a refused attempt. ``actor``: a key's fingerprint or a reader's name."""

    id: int
    at: str
    actor: str
    action: str
    conversation_id: str | None
    target: str | None
    address: str | None
    outcome: str
    detail: dict[str, Any] | None


class AuditsOut(BaseModel):
    """Audit entries, newest first. ``older``: the ``before`` cursor of the next page."""

    audit: list[AuditOut]
    older: str | None


def dry_run_body(asked: CheckedRequest) -> dict[str, Any]:
    """Convert to the form of `DryRunOut`."""
    schedule, terms = asked.schedule, asked.terms
    return {
        "dry_run": True,
        "conversation_id": asked.conversation_id,
        "response_id": asked.response_id,
        "channel": asked.channel,
        "mode": terms.mode,
        "speed": terms.speed,
        "max_rate": terms.max_rate,
        **(_REPAIR if schedule is None else _scheduled(schedule)),
    }


_REPAIR = {
    "chunks": 1,
    "seconds": 0.0,
    "pace": "recorded",
    "joined": 0,
    "gaps": [],
    "schedule": [{"seq": 0, "at_s": 0.0, "kind": "repair", "characters": 0, "joined": 1}],
    "more": 0,
}


def _scheduled(schedule: Schedule) -> dict[str, Any]:
    return {
        "chunks": schedule.chunks,
        "seconds": round(schedule.seconds, 3),
        "pace": "even" if schedule.even else "recorded",
        "joined": schedule.joined,
        "gaps": schedule.gaps,
        "schedule": listed(schedule, MAX_LISTED),
        "more": max(len(schedule.steps) - MAX_LISTED, 0),
    }


def audit_body(entry: AuditEntry) -> dict[str, Any]:
    """Convert to the form of `AuditOut`."""
    return {
        "id": entry.id,
        "at": timestamp(entry.at_ms),
        "actor": entry.actor,
        "action": entry.action,
        "conversation_id": entry.conversation_id or None,
        "target": entry.target,
        "address": entry.address,
        "outcome": entry.outcome,
        "detail": entry.detail,
    }
