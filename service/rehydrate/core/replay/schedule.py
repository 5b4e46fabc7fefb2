"""Replays as requested and as they proceed, their audit log, and the schedule that each follows.

A schedule is the stored response as channel messages, each with the time at which it is due. It
follows from the response and the options alone. So a process that continues a replay computes the
same schedule, and what it publishes again has the same seqs and content.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rehydrate.core.codecs import CHUNK_CHARACTERS, encode, split_text
from rehydrate.core.event import Event
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.json import dump
from rehydrate.core.rate_limit import RateLimit
from rehydrate.core.replay.chunks import Chunk, chunks_of
from rehydrate.core.wire import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


Mode = Literal["stream", "repair"]
ReplayState = Literal["queued", "running", "done", "failed", "cancelled"]

MODES: tuple[str, ...] = get_args(Mode)
REPLAY_STATES: tuple[str, ...] = get_args(ReplayState)
ENDED: frozenset[str] = frozenset({"done", "failed", "cancelled"})

MIN_SPEED, MAX_SPEED = 0.01, 1000.0

MAX_SECONDS = 6 * 3600.0
"""The longest a replay may take: as long as it runs it occupies one of a few places."""

MAX_RATE = 25.0
"""The largest rate of a replay, in channel messages a second, beside live responses."""


class ReplayTerms(NamedTuple):
    """The options of a replay.

    Attributes:
        mode: as a stream of its own, or as a repair of what readers show.
        speed: a factor of the original pace, from `MIN_SPEED` on; 0: as fast as allowed.
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


EVEN_PER_S = 20.0
"""Chunks a second of a response whose own pace is not recorded: about the pace of models."""

_LIKELY_PER_S = 500.0
"""A pace above it shows that the recorded duration is wrong."""

INCOMPLETE = {"code": "gaps", "detail": "not all of the response is stored"}


class Step(NamedTuple):
    """One channel message, due ``at_s`` after the first; it joins ``chunk_count`` chunks."""

    at_s: float
    event: Event
    chunk_count: int = 1
    length: int = 0


class Schedule(NamedTuple):
    """A whole replay: its start, its content, its stop.

    Attributes:
        joined: how many chunks share a channel message with another, since the rate does not allow
            one for each.
        even: the pace of the response was not recorded.
        gaps: seqs of the response that are missing.
    """

    steps: tuple[Step, ...]
    joined: int
    even: bool
    gaps: list[tuple[int, int]]

    @property
    def seconds(self) -> float:
        """From the first channel message to the last."""
        return self.steps[-1].at_s

    @property
    def chunks(self) -> int:
        """How many channel messages carry content."""
        return len(self.steps) - 2

    def digest(self) -> str:
        """Return a hash that equal schedules share; it reveals nothing of the content."""
        hashed = hashlib.sha256()
        for step in self.steps:
            hashed.update(dump([encode(step.event), round(step.at_s, 6)]))
        return hashed.hexdigest()[:32]

    def largest_bytes(self) -> int:
        """Return about how many bytes the largest channel message has."""
        return max(len(dump(encode(step.event))) for step in self.steps)

    def parts_until(self, seq: int) -> list[dict[str, Any]]:
        """Return the parts of a reader that has received everything up to *seq*."""
        state = MessageState("")
        for step in self.steps[: seq + 1]:
            fold(state, step.event)
        return state.parts()


def scheduled(state: MessageState, terms: ReplayTerms) -> Schedule:
    """Return the schedule for a replay of *state*, which has ended, with the options *terms*.

    The events have no message id yet: the player sets it.
    """
    chunks = [chunk for whole in chunks_of(state) for chunk in _fitting(whole)]
    even = any(chunk.at_ms is None for chunk in chunks)
    times, end_s = _times(state, chunks, even, terms.speed)
    kept = [
        (at_s, chunk)
        for at_s, chunk in zip(times, chunks, strict=True)
        if chunk.seq >= terms.from_seq
    ]
    first_s = 0.0 if terms.from_seq <= 1 or not kept else kept[0][0]
    kept = [(at_s - first_s, chunk) for at_s, chunk in kept]
    slots = _slots(kept, max(end_s - first_s, 0.0), terms)
    start = Event.start(None, seq=0, prompt_id=state.prompt_id, replay_of=state.id)
    steps = [Step(slots.start_s, start)]
    for seq, slot in enumerate(slots.content, start=1):
        steps.append(_step(state.id, seq, slot))
    gaps = state.gaps()
    status, error = state.status, state.error
    if gaps and status == "completed":  # readers must not take it for the whole
        status, error = "incomplete", INCOMPLETE
    stop = Event.stop(
        None, seq=len(steps), status=status, usage=state.usage, error=error, replay_of=state.id
    )
    steps.append(Step(slots.stop_s, stop))
    joined = sum(len(slot.chunks) for slot in slots.content if len(slot.chunks) > 1)
    return Schedule(tuple(steps), joined, even, gaps)


def _fitting(chunk: Chunk) -> list[Chunk]:
    """Return *chunk* as chunks that fit a channel message each."""
    if chunk.length <= CHUNK_CHARACTERS:
        return [chunk]
    return [chunk._replace(text=part) for part in split_text(chunk.text or "")]


def _times(
    state: MessageState, chunks: Sequence[Chunk], even: bool, speed: float
) -> tuple[list[float], float]:
    """Return when each chunk and the stop are due, in seconds after the start."""
    if not speed:
        return [0.0] * len(chunks), 0.0
    started_ms, finished_ms = state.started_ms, state.finished_ms
    if even:
        length_s = len(chunks) / EVEN_PER_S
        if started_ms is not None and finished_ms is not None:
            recorded_s = (finished_ms - started_ms) / 1000
            length_s = recorded_s if recorded_s * _LIKELY_PER_S >= len(chunks) else length_s
        apart_s = length_s / speed / (len(chunks) + 1)
        return [apart_s * (index + 1) for index in range(len(chunks))], length_s / speed
    times_ms = [chunk.at_ms or 0 for chunk in chunks]
    begun_ms = min([*times_ms[:1], *([] if started_ms is None else [started_ms])], default=0)
    times = [(at_ms - begun_ms) / 1000 / speed for at_ms in times_ms]
    last_s = times[-1] if times else 0.0
    ended_s = last_s if finished_ms is None else (finished_ms - begun_ms) / 1000 / speed
    return times, max(last_s, ended_s)


class _Slot:
    """A channel message to be scheduled: its time and its chunks."""

    __slots__ = ("at_s", "chunks", "length", "waits")

    def __init__(self, at_s: float, chunk: Chunk, *, waits: bool) -> None:
        self.at_s = at_s
        self.waits = waits
        self.chunks = [chunk]
        self.length = chunk.length

    def takes(self, chunk: Chunk) -> bool:
        return chunk.continues(self.chunks[-1]) and self.length + chunk.length <= CHUNK_CHARACTERS

    def take(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.length += chunk.length


class _Slots(NamedTuple):
    start_s: float
    content: list[_Slot]
    stop_s: float


def _slots(due: Sequence[tuple[float, Chunk]], end_s: float, terms: ReplayTerms) -> _Slots:
    """Return the channel messages that the rate allows.

    A chunk that is due around one that has to wait shares its message. So nothing is late or early
    by more than half the distance of two messages. As fast as allowed, everything is due at once,
    and nothing is joined.
    """
    pace = RateLimit(terms.max_rate)
    around_s = 0.5 / pace.sustained_per_s
    start_s = _placed(pace, 0.0)
    content: list[_Slot] = []
    last_s = start_s
    for at_s, chunk in due:
        open_ = content[-1] if content and content[-1].waits and terms.speed else None
        if open_ is not None and at_s < open_.at_s + around_s and open_.takes(chunk):
            open_.take(chunk)
            continue
        due_s = max(at_s, last_s)
        last_s = _placed(pace, due_s)
        content.append(_Slot(last_s, chunk, waits=last_s > due_s))
    return _Slots(start_s, content, _placed(pace, max(end_s, last_s)))


def _placed(pace: RateLimit, at_s: float) -> float:
    """Return when a message that is due at *at_s* may be published, and count it."""
    at_s += pace.wait_s(at_s)
    pace.spend(at_s)
    return at_s


def _step(replay_of: str, seq: int, slot: _Slot) -> Step:
    first = slot.chunks[0]
    text = None if first.text is None else "".join(chunk.text or "" for chunk in slot.chunks)
    event = Event(
        first.kind,
        None,
        seq=seq,
        replay_of=replay_of,
        text=text,
        part=first.part,
        tool_call_id=first.tool_call_id,
        name=first.name,
        value=first.value,
        status=first.status,
    )
    return Step(slot.at_s, event, len(slot.chunks), slot.length)


def listed(schedule: Schedule, most: int) -> list[dict[str, Any]]:
    """Return the first *most* channel messages of a schedule, without their content."""
    return [
        {
            "seq": step.event.seq,
            "at_s": round(step.at_s, 3),
            "kind": step.event.kind,
            "characters": step.length,
            "joined": step.chunk_count,
        }
        for step in schedule.steps[:most]
    ]
