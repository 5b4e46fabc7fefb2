"""The channel's side of a publisher: its events in order, and what became of each."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.core.dialects import tokens
from rehydrate.core.events import Event, Kind, Status
from rehydrate.core.response import MessageState, fold
from rehydrate.errors import ChannelUnavailable, Fenced
from rehydrate.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rehydrate.hydration import Rules
    from rehydrate.ports import ChannelLog

    Ack = asyncio.Future[Sequence[str | None]]

ACK_TIMEOUT_S = 30.0
"""How long an ending response waits for what Ably has not acknowledged."""

TELL_ATTEMPTS = 4


class Terms(NamedTuple):
    """How responses are published.

    ``client_id``: as whom. ``lease_s``: how long a publisher may give no sign of life before it is
    taken for dead.
    """

    client_id: str | None = None
    lease_s: float = 15.0


class Ending(NamedTuple):
    """How a response ends; ``parts`` None: with what was written."""

    status: Status
    usage: Any = None
    error: Any = None
    parts: list[dict[str, Any]] | None = None


class Publication:
    """The channel's side of a publisher: its events, and what became of them.

    Attributes:
        state: what was written, folded.
        unstored: the events that no checkpoint has taken yet.
        position: the serial of the start, once it is acknowledged.
        closed: why nothing more may be written.
        refused: how many publishes Ably did not take, or did not acknowledge.
    """

    def __init__(
        self,
        response_id: str,
        gen: int,
        *,
        channel: ChannelLog,
        channel_name: str,
        rules: Rules,
        terms: Terms,
    ) -> None:
        self.id = response_id
        self.gen = gen
        self.state = MessageState(response_id, gen=gen)
        self.unstored: list[Event] = []
        self.position: str | None = None
        self.ending: Ending | None = None
        self.closed: str | None = None
        self.refused = 0
        self._channel = channel
        self._channel_name = channel_name
        self._now_ms = rules.now_ms
        self._client_id = terms.client_id
        self._seq = 0
        self._unacknowledged: set[Ack] = set()

    def start(self, prompt_id: str | None) -> None:
        """Say that the response begins."""
        ack = self._take(Event("start", self.id, self.gen, 0, prompt_id=prompt_id))
        ack.add_done_callback(self._started)

    def emit(self, kind: Kind, **fields: Any) -> None:
        """Publish the next event of the response."""
        if self.closed is not None:
            raise Fenced(self.closed)
        self._seq += 1
        self._take(Event(kind, self.id, self.gen, self._seq, **fields))

    async def end(self) -> list[Event]:
        """Wait for the acknowledgements; return what ends the response.

        That is a repair, if readers may have seen other text than what is to be committed, and the
        stop.
        """
        if self._unacknowledged:
            await asyncio.wait(self._unacknowledged, timeout=ACK_TIMEOUT_S)
        self.closed = self.closed or f"response {self.id!r} has ended"
        status, usage, error, parts = self.ending or Ending("completed")
        said = self.state.parts()
        events = []
        if self.refused or self._unacknowledged or (parts is not None and parts != said):
            events.append(Event("repair", self.id, self.gen, self._seq, value=parts or said))
        stop = Event("stop", self.id, self.gen, self._seq + 1)
        events.append(stop._replace(status=status, value=usage, error=error))
        return [self._signed(event) for event in events]

    async def tell(self, event: Event) -> None:
        """Publish *event* until it is acknowledged.

        Raises:
            ChannelUnavailable: Ably did not take it; whoever sweeps the lease will tell.
        """
        for attempt in range(TELL_ATTEMPTS):
            try:
                async with asyncio.timeout(ACK_TIMEOUT_S):
                    await self._publish(event)
            except (ChannelUnavailable, TimeoutError):
                await asyncio.sleep(random.uniform(0.5, 1) * 2**attempt / 4)  # noqa: S311 - jitter
            else:
                return
        raise ChannelUnavailable(f"the {event.kind} of {self.id!r} was not acknowledged")

    def _take(self, event: Event) -> Ack:
        event = self._signed(event)
        fold(self.state, event)
        self.unstored.append(event)
        ack = self._publish(event)
        self._unacknowledged.add(ack)
        ack.add_done_callback(self._acknowledged)
        return ack

    def _signed(self, event: Event) -> Event:
        place = "repair" if event.kind == "repair" else event.seq
        return event._replace(
            id=f"{self.id}:{self.gen}:{place}",
            client_id=self._client_id,
            timestamp_ms=self._now_ms(),
        )

    def _publish(self, event: Event) -> Ack:
        name, data, extras = tokens.encode(event)
        outgoing = Outgoing(name, data, event.id or "", extras, event.client_id)
        return asyncio.ensure_future(self._channel.publish(self._channel_name, [outgoing]))

    def _started(self, ack: Ack) -> None:
        if not ack.cancelled() and ack.exception() is None and ack.result():
            self.position = ack.result()[0]

    def _acknowledged(self, ack: Ack) -> None:
        self._unacknowledged.discard(ack)
        if ack.cancelled() or ack.exception() is not None:
            self.refused += 1
