"""Replays as requested and as they proceed, and the audit log of administrative acts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rehydrate.core.wire import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["stream", "repair"]
ReplayState = Literal["queued", "running", "done", "failed", "cancelled"]

MODES: tuple[str, ...] = get_args(Mode)
REPLAY_STATES: tuple[str, ...] = get_args(ReplayState)
ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})

MAX_SPEED = 1000.0
MAX_RATE = 25.0
"""The largest rate of a replay, in channel messages a second, beside live responses."""


class ReplayTerms(NamedTuple):
    """The options of a replay.

    Attributes:
        mode: as a stream of its own, or as a repair of what readers show.
        speed: a factor of the original pace; 0: as fast as allowed.
        channel: where to publish; None: on the conversation's own channel.
        from_seq: nothing before that seq.
        max_rate: channel messages a second; 0: the default of the channel.
    """

    mode: Mode = "stream"
    speed: float = 1.0
    channel: str | None = None
    from_seq: int = 0
    max_rate: float = 0.0


class Requester(NamedTuple):
    """Who requests a replay (never a key itself), and from which address; None: no network."""

    actor: str
    address: str | None = None


class Replay(NamedTuple):
    """A replay and its progress. Times are in ms since 1970.

    Attributes:
        terms: with the channel and the rate filled in.
        chunks: channel messages with content; ``done`` of them are acknowledged.
        seconds: how long it takes; ``seconds_done`` of them have passed.
        plan: what else is known of its schedule.
        gen: of its stream, which began at ``gen_from`` chunks; one more each time that readers saw
            a gap.
        attempts: how often it was begun without progress.
    """

    conversation_id: str
    id: str
    response_id: str
    channel: str
    terms: ReplayTerms
    state: ReplayState
    chunks: int
    seconds: float
    asked_by: str
    created_ms: int
    plan: Mapping[str, Any]
    done: int = 0
    seconds_done: float = 0.0
    gen: int = 1
    gen_from: int = 0
    attempts: int = 0
    cancel_asked: bool = False
    started_ms: int | None = None
    finished_ms: int | None = None
    error: Any = None

    @property
    def ended(self) -> bool:
        """True if nothing will change any more."""
        return self.state in ENDED

    def body(self) -> dict[str, Any]:
        """Return the wire form."""
        terms, plan = self.terms, self.plan
        return {
            "replay_id": self.id,
            "conversation_id": self.conversation_id,
            "response_id": self.response_id,
            "channel": self.channel,
            "mode": terms.mode,
            "speed": terms.speed,
            "from_seq": terms.from_seq,
            "max_rate": terms.max_rate,
            "state": self.state,
            "cancel_asked": self.cancel_asked,
            "chunks": self.chunks,
            "done": self.done,
            "seconds": round(self.seconds, 3),
            "seconds_done": round(self.seconds_done, 3),
            "pace": "even" if plan.get("even") else "recorded",
            "joined": plan.get("joined", 0),
            "gaps": plan.get("gaps", []),
            "asked_by": self.asked_by,
            "created_at": timestamp(self.created_ms),
            "started_at": timestamp(self.started_ms),
            "finished_at": timestamp(self.finished_ms),
            "error": self.error,
        }


class AuditEntry(NamedTuple):
    """One act of an admin, or one that was refused.

    Attributes:
        conversation_id: empty if it concerns none.
        target: a channel.
        id, at_ms: set by the store.
    """

    actor: str
    action: str
    outcome: str
    conversation_id: str = ""
    target: str | None = None
    address: str | None = None
    detail: Mapping[str, Any] | None = None
    id: int = 0
    at_ms: int = 0
