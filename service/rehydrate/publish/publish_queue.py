"""The outbox: what publishers say, sent at once while Ably's rates allow it, else as soon as they do.

Ably counts publishes, on each channel and on each connection, and one publish may carry many
messages. So whatever waits when a channel's turn comes goes out together, and what is written
meanwhile grows in its writer. A *tray* is what waits on one channel; a *lane* is a connection, with
as few trays on it as let each have its turn within `TURN_S`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import uuid
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rehydrate.core.codecs import tokens
from rehydrate.core.event import TEXTUAL, Event
from rehydrate.core.json import dump, sent_bytes
from rehydrate.core.rate_limit import CongestionWindow, MinimumLatency, RateLimit
from rehydrate.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rehydrate.ports import ChannelLog, EventSource

    Ack = asyncio.Future[Sequence[str | None]]

TURN_S = 0.18
"""How long a tray may wait for its turn while all trays of its lane are busy."""

BATCH_BYTES = 60_000
"""Of one publish: Ably counts its messages together (TM6), and takes 64 KiB from any account."""

BATCH_MESSAGES = 100
UNACKNOWLEDGED = 16
"""Publishes of one channel that may wait for their acknowledgements, at most: fewer while those take
long. What comes then, grows: where Ably, or this machine, is slow, there are fewer publishes and not
a longer queue."""

MOST_LANES = 100
FREE_PER_S = 5_000
"""Publishes a second of a process that Ably sets no rate: more would only keep it busy, and what
many responses say within the turn of each goes out together."""

_HEADERS_BYTES = 200
_WIDEST_BYTES = 4

_BYTES_PER_PUBLISH = 20_000
"""Ably takes 1024 KiB a second on a channel that it takes 50 publishes on: larger ones cost more."""


class _ConnectionSlot:
    """One connection's turns."""

    def __init__(self, number: int, rate_per_s: float) -> None:
        self.number = number
        self.pace = RateLimit(rate_per_s or FREE_PER_S)
        self.quickest = MinimumLatency()
        self.trays = 0
        self.waiting: deque[ChannelQueue] = deque()
        self.timer: asyncio.TimerHandle | None = None


class ChannelQueue:
    """What waits to be said on one channel; `PublishQueue.tray` lends it."""

    def __init__(
        self, outbox: PublishQueue, name: str, lane: _ConnectionSlot, rate_per_s: float
    ) -> None:
        self.name = name
        self.lane = lane
        self.pace = RateLimit(rate_per_s)
        self.borrowers = 0
        self.unacknowledged = 0
        self.queued = False
        self._window = CongestionWindow(UNACKNOWLEDGED)
        self._outbox = outbox
        self._writers: dict[EventSource, None] = {}
        self._alone: deque[tuple[list[Outgoing], Ack]] = deque()
        self._alone_next = True

    def ready(self, writer: EventSource) -> None:
        """*writer* has something to say; it goes out at once if that is allowed."""
        self._writers.setdefault(writer)
        self._outbox.pump(self)

    async def say_alone(self, event: Event) -> str | None:
        """Say *event* in a publish of its own, under its own id; return when it is acknowledged.

        Returns its serial, if Ably tells it.

        Raises:
            ChannelUnavailable: it was not, or Ably refused it.
        """
        serials = await self.post(event)
        return serials[0] if serials else None

    def post(self, event: Event) -> Ack:
        """As `say_alone`, without waiting: what it gives is to be awaited, at any time."""
        return self.post_together([event])

    def post_together(self, events: Sequence[Event]) -> Ack:
        """As `post`, several *events* in one publish: all of them are taken, or none.

        They get ids of their own, which are the same whenever the same are said together.
        """
        answer: Ack = asyncio.get_running_loop().create_future()
        messages = [outgoing(event) for event in events]
        if len(messages) > 1:
            ids = "\n".join(message.id for message in messages)
            base_id = hashlib.sha256(ids.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            messages = [each._replace(id=f"{base_id}:{n}") for n, each in enumerate(messages)]
        self._alone.append((messages, answer))
        self._outbox.pump(self)
        return answer

    @property
    def has_more(self) -> bool:
        """Whether something waits that may be sent."""
        return bool(self._alone or self._writers) and self.unacknowledged < self._window.width

    def send(self, channel: ChannelLog, base_id: str, now_s: float) -> None:
        """Send what fits one publish: what goes alone and what writers say take turns."""
        if self._alone_next and self._send_alone(channel, now_s):
            self._alone_next = False
        elif self._send_batch(channel, base_id, now_s):
            self._alone_next = True
        else:
            self._send_alone(channel, now_s)

    def _send_alone(self, channel: ChannelLog, now_s: float) -> bool:
        """Send what is to go in a publish of its own; False if nothing is."""
        while self._alone:
            messages, waiter = self._alone.popleft()
            if not waiter.done():
                ack = self._post(
                    channel, messages, now_s, cost=_cost(sum(map(size_bytes, messages)))
                )
                ack.add_done_callback(partial(_pass_on, waiter))
                return True
        return False

    def _send_batch(self, channel: ChannelLog, base_id: str, now_s: float) -> bool:
        """Send what writers have to say, as far as it fits; False if that is nothing."""
        batch: list[tuple[EventSource, Event]] = []
        messages, size = [], 0
        while self._writers and len(batch) < BATCH_MESSAGES:
            writer = next(iter(self._writers))
            event = writer.next_event()
            if event is None:
                del self._writers[writer]
                continue
            event = event._replace(id=f"{base_id}:{len(batch)}")
            message = outgoing(event)
            size += _most_bytes(event) or size_bytes(message)
            if batch and size > BATCH_BYTES:
                break
            batch.append((writer, event))
            messages.append(message)
            writer.posted(event)
            del self._writers[writer]  # and to the end: one event a writer, in turn
            self._writers[writer] = None
        if messages:
            ack = self._post(channel, messages, now_s, cost=_cost(size))
            ack.add_done_callback(partial(_tell_writers, batch))
        return bool(messages)

    def _post(
        self, channel: ChannelLog, messages: list[Outgoing], now_s: float, cost: float = 1.0
    ) -> Ack:
        self.pace.spend(now_s, cost)
        self.lane.pace.spend(now_s)
        self.unacknowledged += 1
        ack = asyncio.ensure_future(channel.publish(self.name, messages, lane=self.lane.number))
        ack.add_done_callback(partial(self._answered, now_s))
        return ack

    def _answered(self, sent_s: float, ack: Ack) -> None:
        self.unacknowledged -= 1
        if not ack.cancelled():
            now_s = ack.get_loop().time()
            took_s = now_s - sent_s
            self._window.answered(took_s, self.lane.quickest.update(took_s, now_s), now_s)
        self._outbox.pump(self)


class PublishQueue:
    """The outbox of a process.

    Args:
        channel: what it publishes to.
        rate_per_s: publishes a second, on a channel and on a connection; 0: no limit.
    """

    def __init__(self, channel: ChannelLog, *, rate_per_s: float) -> None:
        self._channel = channel
        self._rate_per_s = rate_per_s
        self._trays: dict[str, ChannelQueue] = {}
        self._lanes: list[_ConnectionSlot] = []
        self._name = uuid.uuid4().hex[:16]
        self._count = 0
        self._sustained_per_s = RateLimit(rate_per_s).sustained_per_s
        self._trays_per_lane = max(1, int(self._sustained_per_s * TURN_S))

    @contextmanager
    def tray(self, channel_name: str, *, steady_per_s: float = 0.0) -> Iterator[ChannelQueue]:
        """The tray of a channel, for as long as the block runs.

        *steady_per_s*: publishes a second that the borrower will send at its own times, which
        cannot grow while they wait; others on the lane leave room for them.
        """
        room = 0
        if steady_per_s and self._sustained_per_s:
            share = steady_per_s / self._sustained_per_s
            room = max(0, math.ceil(share * self._trays_per_lane) - 1)
        tray = self._trays.get(channel_name)
        if tray is None:
            lane = self._lane(1 + room)
            lane.trays += 1
            tray = ChannelQueue(self, channel_name, lane, self._rate_per_s)
            self._trays[channel_name] = tray
        tray.borrowers += 1
        tray.lane.trays += room
        try:
            yield tray
        finally:
            tray.lane.trays -= room
            tray.borrowers -= 1
            self._put_away(tray)

    def pump(self, tray: ChannelQueue) -> None:
        """Send what *tray* and its lane may send now; see to it that the rest is sent later."""
        if tray.has_more and not tray.queued:
            tray.queued = True
            tray.lane.waiting.append(tray)
        self._put_away(tray)
        lane = tray.lane
        if lane.timer is not None:
            now_s = asyncio.get_running_loop().time()
            if lane.pace.wait_s(now_s) or tray.pace.wait_s(now_s):
                return
            lane.timer.cancel()
        self._turn(lane)

    def _turn(self, lane: _ConnectionSlot) -> None:
        loop = asyncio.get_running_loop()
        lane.timer = None
        now_s = loop.time()
        waits_s = []
        for _ in range(len(lane.waiting)):
            if wait_s := lane.pace.wait_s(now_s):
                waits_s = [wait_s]
                break
            tray = lane.waiting.popleft()
            if not (wait_s := tray.pace.wait_s(now_s)):
                self._count += 1
                tray.send(self._channel, f"{self._name}-{self._count}", now_s)
                wait_s = tray.pace.wait_s(now_s)
            tray.queued = tray.has_more
            if tray.queued:
                lane.waiting.append(tray)
                waits_s.append(wait_s)
        if lane.waiting:
            soonest_s = max(min(waits_s), lane.pace.wait_s(now_s))
            lane.timer = loop.call_later(soonest_s, self._turn, lane)

    def _lane(self, trays: int) -> _ConnectionSlot:
        """The first lane with room for *trays*; without a rate there is room for all on one."""
        for lane in self._lanes:
            if not self._rate_per_s or lane.trays + trays <= max(self._trays_per_lane, trays):
                return lane
        if len(self._lanes) < MOST_LANES:
            self._lanes.append(_ConnectionSlot(len(self._lanes), self._rate_per_s))
            return self._lanes[-1]
        return min(self._lanes, key=lambda lane: lane.trays)

    def _put_away(self, tray: ChannelQueue) -> None:
        """Forget a tray that nobody needs; until then its channel keeps to its lane, for order."""
        idle = not (tray.borrowers or tray.unacknowledged or tray.queued)
        if idle and self._trays.get(tray.name) is tray:
            del self._trays[tray.name]
            tray.lane.trays -= 1


def outgoing(event: Event) -> Outgoing:
    """The channel message that says *event*."""
    name, data, extras = tokens.encode(event)
    return Outgoing(name, data, event.id or "", extras, event.client_id)


def size_bytes(message: Outgoing) -> int:
    """What Ably counts of *message* (TM6)."""
    data = message.data
    if isinstance(data, str):
        size = len(data.encode("utf-8", "surrogatepass"))
    else:
        size = 0 if data is None else sent_bytes(data)
    names = len(message.name) + len((message.client_id or "").encode("utf-8", "replace"))
    return size + names + len(dump(message.extras))


def packed(events: Iterable[Event]) -> Iterator[list[Event]]:
    """*events* in their order, as many at a time as fit one publish."""
    batch: list[Event] = []
    size = 0
    for event in events:
        more = size_bytes(outgoing(event))
        if batch and (size + more > BATCH_BYTES or len(batch) == BATCH_MESSAGES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch


def _cost(size: int) -> float:
    """How many publishes one of *size* bytes counts as."""
    return max(1.0, size / _BYTES_PER_PUBLISH)


def _most_bytes(event: Event) -> int:
    """No less than `size_bytes` of a plain text, and quickly; 0: it has to be counted."""
    if event.kind not in TEXTUAL or event.part is not None:
        return 0
    said = len(event.text or "") + len(event.message_id or "") + len(event.client_id or "")
    return _HEADERS_BYTES + _WIDEST_BYTES * said


def _tell_writers(batch: list[tuple[EventSource, Event]], ack: Ack) -> None:
    refused = ack.cancelled() or ack.exception() is not None
    serials = [None] * len(batch) if refused else ack.result()
    for (writer, event), serial in zip(batch, serials, strict=False):
        writer.answered(event, serial, refused=refused)


def _pass_on(waiter: Ack, ack: Ack) -> None:
    if waiter.done():
        return
    if ack.cancelled():
        waiter.cancel()
    elif (error := ack.exception()) is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(ack.result())
