"""The channel's side of a publisher: its events in order, and what became of each."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.codecs import tokens
from rehydrate.core.event import CONTENT, TEXTUAL, Event, Kind, Status
from rehydrate.core.fold import MessageState, fold
from rehydrate.core.text import size_budget as extent
from rehydrate.errors import ChannelUnavailable, Fenced, TooLarge

if TYPE_CHECKING:
    from rehydrate.context import Context
    from rehydrate.ports import ChannelPublisher

ACK_TIMEOUT_S = 30.0
"""How long an ending response waits for what Ably has not acknowledged."""

TELL_ATTEMPTS = 4

_GROWING = TEXTUAL | {"tool_args"}
"""Kinds whose events grow while they wait to be sent."""


class Ending(NamedTuple):
    """How a response ends; ``parts`` None: with what was written."""

    status: Status
    usage: Any = None
    error: Any = None
    parts: list[dict[str, Any]] | None = None


class _Draft:
    """Text that waits to be sent, and grows until then."""

    __slots__ = ("characters", "kind", "part", "pieces", "tool_call_id")

    def __init__(self, kind: Kind, part: str | None, tool_call_id: str | None) -> None:
        self.kind = kind
        self.part = part
        self.tool_call_id = tool_call_id
        self.pieces: list[str] = []
        self.characters = 0

    def takes(self, kind: Kind, part: str | None, tool_call_id: str | None, length: int) -> bool:
        alike = (self.kind, self.part, self.tool_call_id) == (kind, part, tool_call_id)
        return alike and self.characters + length <= tokens.CHUNK_CHARACTERS


class ResponseWriter:
    """The channel's side of a publisher: its events, and what became of them.

    What is written gets its seq when it is sent (or when somebody wants to know the text): until
    then text of one kind grows into one event.

    Attributes:
        state: what was written and has its seq, folded.
        unstored: the events that were sent and that no checkpoint has taken yet.
        position: the serial of the start, once it is acknowledged.
        metadata: what is kept with the response; None: what was given when it began.
        closed: why nothing more may be written.
        refused: how many events Ably did not take, or did not acknowledge.
    """

    def __init__(
        self,
        ctx: Context,
        response_id: str,
        gen: int,
        *,
        tray: ChannelPublisher,
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
        self._tray = tray
        self._now_ms = ctx.now_ms
        self._client_id = ctx.publish_options.client_id
        self._ephemeral = ephemeral
        self._seq = -1
        self._characters = 0
        self._draft: _Draft | None = None
        self._waiting: deque[Event] = deque()
        self._unanswered = 0
        self._refused_stored = 0
        self._all_answered = asyncio.Event()

    def start(self, prompt_id: str | None) -> None:
        """Say that the response begins."""
        self._add("start", prompt_id=prompt_id)
        self._tray.ready(self)

    def emit(
        self,
        kind: Kind,
        *,
        text: str | None = None,
        part: str | None = None,
        tool_call_id: str | None = None,
        **fields: Any,
    ) -> None:
        """Say what comes next in the response.

        Raises:
            Fenced: it is not this publisher's any more.
            TooLarge: the response would be larger than a response may be.
        """
        if self.closed is not None:
            raise Fenced(self.closed)
        length = len(text or "") + extent.value_length(fields.get("name"), fields.get("value"))
        self.check_room(length)
        self._characters += length
        if kind in _GROWING and text is not None:
            self._grow(kind, text, part, tool_call_id)
        else:
            self.settle()
            self._add(kind, text=text, part=part, tool_call_id=tool_call_id, **fields)
        self._tray.ready(self)

    def settle(self) -> None:
        """Give what was written its seq; what comes then begins another event."""
        draft, self._draft = self._draft, None
        if draft is not None:
            text = draft.pieces[0] if len(draft.pieces) == 1 else "".join(draft.pieces)
            self._add(draft.kind, text=text, part=draft.part, tool_call_id=draft.tool_call_id)

    def next_event(self) -> Event | None:
        """See `rehydrate.publish.publish_queue.EventSource`."""
        if not self._waiting:
            self.settle()
        return self._waiting[0] if self._waiting else None

    def posted(self, event: Event) -> None:
        """See `rehydrate.publish.publish_queue.EventSource`."""
        self._waiting.popleft()
        self.unstored.append(event)
        self._unanswered += 1

    def answered(self, event: Event, serial: str | None, *, refused: bool) -> None:
        """See `rehydrate.publish.publish_queue.EventSource`."""
        self._unanswered -= 1
        self.refused += refused
        if event.kind == "start" and serial is not None:
            self.position = serial
        if not self._unanswered:
            self._all_answered.set()

    @property
    def urgent(self) -> bool:
        """Whether readers may need the store soon: Ably keeps, or took, less than was said."""
        return self._ephemeral or self.refused > self._refused_stored

    def stored(self, count: int) -> None:
        """A checkpoint has taken the first *count* of what was unstored."""
        del self.unstored[:count]
        self._refused_stored = self.refused

    async def end(self) -> list[Event]:
        """Wait until all is acknowledged; return what ends the response.

        That is a repair, if readers may have seen other text than what is to be committed, and the
        stop.
        """
        self.settle()
        await self._quiet()
        self.closed = self.closed or f"response {self.id!r} has ended"
        unsent = bool(self._waiting)
        self.unstored.extend(self._waiting)
        self._waiting.clear()
        status, usage, error, parts = self.ending or Ending("completed")
        said = self.state.parts()
        events = []
        uncertain = unsent or self.refused or self._unanswered
        if uncertain or (parts is not None and parts != said):
            final = said if parts is None else parts
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
        return [self._signed(event) for event in events]

    async def tell(self, event: Event) -> None:
        """Publish *event* until it is acknowledged.

        Raises:
            ChannelUnavailable: Ably did not take it; whoever sweeps the lease will tell.
        """
        for attempt in range(TELL_ATTEMPTS):
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await self._tray.say_alone(event)
            except (ChannelUnavailable, TimeoutError):
                await asyncio.sleep(random.uniform(0.5, 1) * 2**attempt / 4)  # noqa: S311 - jitter
            else:
                return
        raise ChannelUnavailable(f"the {event.kind} of {self.id!r} was not acknowledged")

    def check_room(self, length: int) -> None:
        """Return if so many characters more may be written.

        Raises:
            TooLarge: the response would be larger than one may be.
        """
        if self._seq >= extent.MAX_EVENTS:
            raise TooLarge(f"response {self.id!r} has {extent.MAX_EVENTS} events, and no more fit")
        if self._characters + length > extent.MAX_CHARACTERS:
            raise TooLarge(f"response {self.id!r} would pass {extent.MAX_CHARACTERS} characters")
        held = self.state.budget
        if held is not None and held.steps >= extent.MAX_STEPS:
            raise TooLarge(f"response {self.id!r} changed its part {extent.MAX_STEPS} times")

    def _grow(self, kind: Kind, text: str, part: str | None, tool_call_id: str | None) -> None:
        draft = self._draft
        if draft is None or not draft.takes(kind, part, tool_call_id, len(text)):
            self.settle()
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

    def _signed(self, event: Event) -> Event:
        """*event* with an id that stays when it is told again, by whomever."""
        place = "repair" if event.kind == "repair" else event.seq
        return event._replace(
            id=f"{self.id}:{self.gen}:{place}",
            client_id=self._client_id,
            timestamp_ms=self._now_ms(),
        )

    async def _quiet(self) -> None:
        """Return when nothing waits and all is answered, or when that takes too long."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + ACK_TIMEOUT_S
        while (self._waiting or self._unanswered) and loop.time() < deadline_s:
            self._all_answered.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._all_answered.wait()
            except TimeoutError:
                return
