"""The events of a response that is being published, in order, and their acknowledgements."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, NamedTuple

from rehydrate.background import Backoff
from rehydrate.context import Context
from rehydrate.core import codecs
from rehydrate.core.event import CONTENT, TEXTUAL, Event, Kind, Status
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text import content
from rehydrate.errors import ChannelUnavailable, Fenced, TooLarge
from rehydrate.ports import ChannelPublisher

ACK_TIMEOUT_S = 30.0
"""How long the end of a response waits for outstanding acknowledgements."""

PUBLISH_ATTEMPTS = 4
FIRST_RETRY_S = 0.25
MAX_RETRY_S = 2.0

_GROWING = TEXTUAL | {"tool_args"}
"""Kinds whose events grow while they wait to be sent."""


class Ending(NamedTuple):
    """How a response ends. ``parts``: the final content; None: what was written."""

    status: Status
    usage: Any = None
    error: Any = None
    parts: list[dict[str, Any]] | None = None


class _Draft:
    """Text that waits to be sent and grows until then."""

    __slots__ = ("characters", "kind", "part", "pieces", "tool_call_id")

    def __init__(self, kind: Kind, part: str | None, tool_call_id: str | None) -> None:
        self.kind = kind
        self.part = part
        self.tool_call_id = tool_call_id
        self.pieces: list[str] = []
        self.characters = 0

    def accepts(self, kind: Kind, part: str | None, tool_call_id: str | None, length: int) -> bool:
        same = (self.kind, self.part, self.tool_call_id) == (kind, part, tool_call_id)
        return same and self.characters + length <= codecs.CHUNK_CHARACTERS


class ResponseWriter:
    """The events of a response: an `EventProducer` for the publish queue.

    An event gets its seq when it is sent, or when the text is read: until then, text of one kind
    grows into one event.

    Attributes:
        state: the events that have a seq, folded.
        unstored: the events that were sent and are in no checkpoint yet.
        position: the serial of the start, once it is acknowledged.
        metadata: the metadata to store; None: unchanged since the claim.
        closed: why nothing more may be written; None while writing is allowed.
        refused: how many events Ably refused, or did not acknowledge.
    """

    def __init__(
        self,
        ctx: Context,
        response_id: str,
        gen: int,
        *,
        queue: ChannelPublisher,
        ephemeral: bool = False,
    ) -> None:
        self.id = response_id
        self.gen = gen
        self.state = MessageState(response_id, gen=gen)
        self.unstored: list[Event] = []
        self.position: str | None = None
        self.ending: Ending | None = None
        self.metadata: Any = None
        self.closed: str | None = None
        self.refused = 0
        self._queue = queue
        self._now_ms = ctx.now_ms
        self._client_id = ctx.publish_options.client_id
        self._ephemeral = ephemeral
        self._seq = -1
        self._characters = 0
        self._draft: _Draft | None = None
        self._waiting: deque[Event] = deque()
        self._unacknowledged = 0
        self._refused_stored = 0
        self._all_acknowledged = asyncio.Event()

    def start(self, prompt_id: str | None) -> None:
        """Publish the start of the response."""
        self._add("start", prompt_id=prompt_id)
        self._queue.ready(self)

    def emit(
        self,
        kind: Kind,
        *,
        text: str | None = None,
        part: str | None = None,
        tool_call_id: str | None = None,
        **fields: Any,
    ) -> None:
        """Append an event to the response.

        Raises:
            Fenced: the response no longer belongs to this publisher, or has ended.
            TooLarge: the response would exceed the limits of a response.
        """
        if self.closed is not None:
            raise Fenced(self.closed)
        length = len(text or "") + content.value_length(fields.get("name"), fields.get("value"))
        self.check_room(length)
        self._characters += length
        if kind in _GROWING and text is not None:
            self._grow(kind, text, part, tool_call_id)
        else:
            self.close_draft()
            self._add(kind, text=text, part=part, tool_call_id=tool_call_id, **fields)
        self._queue.ready(self)

    def close_draft(self) -> None:
        """Give the text written so far its seq; later text starts another event."""
        draft, self._draft = self._draft, None
        if draft is not None:
            text = draft.pieces[0] if len(draft.pieces) == 1 else "".join(draft.pieces)
            self._add(draft.kind, text=text, part=draft.part, tool_call_id=draft.tool_call_id)

    @property
    def has_more(self) -> bool:
        """See `rehydrate.ports.EventProducer`."""
        return bool(self._waiting) or self._draft is not None

    def next_event(self) -> Event | None:
        """See `rehydrate.ports.EventProducer`."""
        if not self._waiting:
            self.close_draft()
        return self._waiting[0] if self._waiting else None

    def on_sent(self, event: Event) -> None:
        """See `rehydrate.ports.EventProducer`."""
        self._waiting.popleft()
        self.unstored.append(event)
        self._unacknowledged += 1

    def on_acknowledged(self, event: Event, serial: str | None, *, refused: bool) -> None:
        """See `rehydrate.ports.EventProducer`."""
        self._unacknowledged -= 1
        self.refused += refused
        if event.kind == "start" and serial is not None:
            self.position = serial
        if not self._unacknowledged:
            self._all_acknowledged.set()

    @property
    def needs_store(self) -> bool:
        """Whether the channel lacks some of the text, so that readers need a checkpoint soon."""
        return self._ephemeral or self.refused > self._refused_stored

    def stored(self, count: int) -> None:
        """Remove the first *count* events from `unstored`: a checkpoint has committed them."""
        del self.unstored[:count]
        self._refused_stored = self.refused

    async def end(self) -> list[Event]:
        """Wait for outstanding acknowledgements; return the events that end the response.

        They are a repair, if readers may have seen other text than will be committed, and the stop.
        """
        self.close_draft()
        await self._wait_until_acknowledged()
        self.closed = self.closed or f"response {self.id!r} has ended"
        unsent = bool(self._waiting)
        self.unstored.extend(self._waiting)
        self._waiting.clear()
        status, usage, error, parts = self.ending or Ending("completed")
        written = self.state.parts()
        events = []
        uncertain = unsent or self.refused or self._unacknowledged
        if uncertain or (parts is not None and parts != written):
            final = written if parts is None else parts
            events.append(Event.repair(self.id, parts=final, gen=self.gen, seq=self._seq))
        events.append(
            Event.stop(
                self.id,
                status=status,
                usage=usage,
                error=error,
                gen=self.gen,
                seq=self._seq + 1,
            )
        )
        return [self._with_stable_id(event) for event in events]

    async def publish_until_acked(self, event: Event) -> None:
        """Publish *event*, retrying until it is acknowledged.

        Raises:
            ChannelUnavailable: every attempt failed. A sweeper will publish the event.
        """
        backoff = Backoff(FIRST_RETRY_S, MAX_RETRY_S)
        for _ in range(PUBLISH_ATTEMPTS):
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await self._queue.publish_one(event)
            except (ChannelUnavailable, TimeoutError):
                await asyncio.sleep(backoff.next_s())
            else:
                return
        raise ChannelUnavailable(f"the {event.kind} of {self.id!r} was not acknowledged")

    def check_room(self, length: int) -> None:
        """Check that *length* more characters may be written.

        Raises:
            TooLarge: the response would exceed the limits of a response.
        """
        if self._seq >= content.MAX_EVENTS:
            raise TooLarge(
                f"response {self.id!r} has {content.MAX_EVENTS} events, which is the limit"
            )
        if self._characters + length > content.MAX_CHARACTERS:
            raise TooLarge(f"response {self.id!r} would exceed {content.MAX_CHARACTERS} characters")
        budget = self.state.budget
        if budget is not None and budget.steps >= content.MAX_STEPS:
            raise TooLarge(
                f"response {self.id!r} switched parts {content.MAX_STEPS} times, which is the limit"
            )

    def _grow(self, kind: Kind, text: str, part: str | None, tool_call_id: str | None) -> None:
        draft = self._draft
        if draft is None or not draft.accepts(kind, part, tool_call_id, len(text)):
            self.close_draft()
            draft = self._draft = _Draft(kind, part, tool_call_id)
        draft.pieces.append(text)
        draft.characters += len(text)

    def _add(self, kind: Kind, **fields: Any) -> None:
        self._seq += 1
        ephemeral = self._ephemeral and kind in CONTENT
        event = Event(
            kind,
            self.id,
            self.gen,
            self._seq,
            client_id=self._client_id,
            timestamp_ms=self._now_ms(),
            ephemeral=ephemeral,
            **fields,
        )
        fold(self.state, event)
        self._waiting.append(event)

    def _with_stable_id(self, event: Event) -> Event:
        """Return *event* with an id that is the same for every publisher that repeats it."""
        place = "repair" if event.kind == "repair" else event.seq
        return event._replace(
            id=f"{self.id}:{self.gen}:{place}",
            client_id=self._client_id,
            timestamp_ms=self._now_ms(),
        )

    async def _wait_until_acknowledged(self) -> None:
        """Return when all events are sent and acknowledged, or after `ACK_TIMEOUT_S`."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + ACK_TIMEOUT_S
        while (self._waiting or self._unacknowledged) and loop.time() < deadline_s:
            self._all_acknowledged.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._all_acknowledged.wait()
            except TimeoutError:
                return
