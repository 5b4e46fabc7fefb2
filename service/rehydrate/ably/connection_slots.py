"""Turns to publish, within Ably's rates, spread over as few connections as they need.

Ably limits publishes per second twice: on each channel and on each connection. Text must therefore
wait sometimes, and where it waits decides what a reader sees. Text that waits behind a connection
as finished messages stays as many messages as there were tokens; text that waits at its writer
grows into one. So nothing waits here except a claim to a *turn*. `ConnectionSlots.publish` accepts
a callable in place of messages, and calls it at the moment at which the channel may publish: the
messages then contain everything written until that moment. That one queue (of
`rehydrate.publish.publish_queue`) is the only place where text waits.

A channel gets its turn when all of these hold:

* its own rate, and that of its connection, allow a publish now. Both allow a tenth of a second's
  worth at once, so the first token of an idle channel is never delayed;
* fewer publishes of the channel are unacknowledged than its congestion window is wide. Where Ably
  or this machine is slow, there are fewer and larger publishes, not a longer queue;
* its connection has fewer than `capacity` messages without acknowledgement.

Channels of one connection take turns in order of request, so that none starves. As many channels
share a connection as can each have a turn within `TURN_S`.

Order: the publishes of a channel use one connection for as long as any of them waits or is
unacknowledged, or a `reserve` block runs; a connection sends in order and resends in order
(`rehydrate.ably.sender`). Only then may the channel's next publish use another connection, when
there is nothing left that it could overtake.

Memory: a channel is forgotten when nothing of it waits, is unacknowledged or is reserved. A publish
whose future is cancelled while it waits is removed at once, so that it holds neither the channel
nor its share of the connection.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core.rate_limit import CongestionWindow, MinimumLatency, RateLimit
from rehydrate.errors import ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rehydrate.ably.sender import Result, Sender
    from rehydrate.ports import Batch, Outgoing

    Ack = asyncio.Future[Sequence[str | None]]

TURN_S = 0.18
"""How long a channel may wait for its turn while all channels of its connection are busy."""

UNACKNOWLEDGED = 16
"""Publishes of one channel that may be unacknowledged, at most."""

MAX_SLOTS = 100
FREE_PER_S = 5_000
"""Publishes a second of a connection without a configured rate: more would only use CPU, and text
written within a turn is published together."""

_BYTES_PER_PUBLISH = 20_000
"""Ably allows 1024 KiB a second on a channel with 50 publishes a second: a larger publish counts
as several."""

_HEADERS_BYTES = 300
_MAX_UTF8_BYTES = 4
_CHECK_EVERY_S = 30.0


class ConnectionSlot:
    """A connection, its rate, and the channels that publish over it.

    Attributes:
        load: channels that use it, and the room that `ConnectionSlots.reserve` keeps free.
        open: messages that were accepted and have no acknowledgement yet.
        waiting: channels that wait for a turn, in order.
        used: whether it published since the last check for unused slots.
    """

    def __init__(self, sender: Sender, rate_per_s: float) -> None:
        self.sender = sender
        self.rate = RateLimit(rate_per_s or FREE_PER_S)
        self.quickest = MinimumLatency()
        self.load = 0
        self.open = 0
        self.waiting: deque[_Channel] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.sending = False
        self.used = True


class _Publish(NamedTuple):
    """A publish that waits for its turn; ``size``: its messages, 0 if they are made at the turn."""

    batch: Batch
    answer: Ack
    size: int


class _Channel:
    """A channel that publishes: what waits for a turn, and how much is unacknowledged."""

    def __init__(self, name: str, slot: ConnectionSlot, rate_per_s: float, window: int) -> None:
        self.name = name
        self.slot = slot
        self.rate = RateLimit(rate_per_s)
        self.window = CongestionWindow(window)
        self.waiting: deque[_Publish] = deque()
        self.unacknowledged = 0
        self.reservations = 0
        self.queued = False

    @property
    def idle(self) -> bool:
        """True if nothing waits, is unacknowledged or is reserved."""
        return not (self.reservations or self.unacknowledged or self.waiting or self.queued)


class ConnectionSlots:
    """Publishes over as many connections as the channels need; all but the first close when unused.

    Args:
        build: creates the sender of a new slot.
        rate_per_s: publishes a second, on a channel and on a connection; 0: no limit.
        capacity: messages of a connection that may be without acknowledgement.
        unacknowledged: publishes of a channel that may be without acknowledgement.
        check_every_s: interval of the check for slots that were unused since the last check.
    """

    def __init__(
        self,
        build: Callable[[], Sender],
        *,
        rate_per_s: float = 0.0,
        capacity: int = 10_000,
        unacknowledged: int = UNACKNOWLEDGED,
        check_every_s: float = _CHECK_EVERY_S,
    ) -> None:
        self._build = build
        self._rate_per_s = rate_per_s
        self._capacity = capacity
        self._window = unacknowledged
        self._check_every_s = check_every_s
        self._sustained_per_s = RateLimit(rate_per_s).sustained_per_s
        self._channels_per_slot = max(1, int(self._sustained_per_s * TURN_S))
        self._slots: list[ConnectionSlot] = []
        self._channels: dict[str, _Channel] = {}
        self._pending: set[Ack] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._slots)

    def publish(self, name: str, batch: Batch) -> Ack:
        """Publish *batch* when the channel *name* has its turn; see `PublishTransport.publish`."""
        answer: Ack = asyncio.get_running_loop().create_future()
        if self._closed:
            answer.set_exception(ChannelUnavailable("the Ably channel log is closed"))
            return answer
        channel = self._channel(name)
        slot, size = channel.slot, 0 if callable(batch) else len(batch)
        if size and slot.open + size > self._capacity:
            answer.set_exception(
                ChannelUnavailable(
                    f"{slot.open} messages have no acknowledgement from Ably yet, and "
                    f"{self._capacity} is the limit: not published; retry later"
                )
            )
        else:
            slot.open += size
            channel.waiting.append(_Publish(batch, answer, size))
            self._pending.add(answer)
            answer.add_done_callback(partial(self._on_done, channel))
            self._pump(channel)
        self._forget_if_idle(channel)
        return answer

    @contextmanager
    def reserve(self, name: str, *, steady_per_s: float = 0.0) -> Iterator[None]:
        """Keep the channel *name* on its connection for the block; see `PublishTransport.reserve`."""
        room = 0
        if steady_per_s and self._sustained_per_s:
            share = steady_per_s / self._sustained_per_s
            room = max(0, math.ceil(share * self._channels_per_slot) - 1)
        channel = self._channel(name, room=room)
        channel.reservations += 1
        channel.slot.load += room
        try:
            yield
        finally:
            channel.slot.load -= room
            channel.reservations -= 1
            self._forget_if_idle(channel)

    async def close(self, grace_s: float) -> None:
        """Wait up to *grace_s* seconds for acknowledgements, then close every connection."""
        self._closed = True
        if self._pending:
            await asyncio.wait(self._pending, timeout=grace_s)
        for answer in list(self._pending):
            if not answer.done():
                answer.set_exception(
                    ChannelUnavailable("closed before Ably acknowledged the message")
                )
        timers = [self._timer, *(slot.timer for slot in self._slots)]
        for timer in timers:
            if timer is not None:
                timer.cancel()
        await asyncio.gather(*(_end(slot) for slot in self._slots), *self._ending)

    def _channel(self, name: str, *, room: int = 0) -> _Channel:
        channel = self._channels.get(name)
        if channel is None:
            slot = self._slot(1 + room)
            slot.load += 1
            channel = _Channel(name, slot, self._rate_per_s, self._window)
            self._channels[name] = channel
        return channel

    def _slot(self, load: int) -> ConnectionSlot:
        """Return the first slot with room for *load*; without a rate, one slot has room for all."""
        for slot in self._slots:
            if not self._rate_per_s or slot.load + load <= max(self._channels_per_slot, load):
                return slot
        if len(self._slots) >= MAX_SLOTS:
            return min(self._slots, key=lambda slot: slot.load)
        self._slots.append(ConnectionSlot(self._build(), self._rate_per_s))
        if len(self._slots) > 1 and self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._check_every_s, self._close_unused)
        return self._slots[-1]

    def _pump(self, channel: _Channel) -> None:
        """Let *channel*, and its slot, publish what they may publish now; schedule the rest."""
        slot = channel.slot
        if not channel.queued and self._may_send(channel):
            channel.queued = True
            slot.waiting.append(channel)
        if slot.sending or not slot.waiting:
            return
        if slot.timer is not None:
            now_s = asyncio.get_running_loop().time()
            if slot.rate.wait_s(now_s) or channel.rate.wait_s(now_s):
                return
            slot.timer.cancel()
        self._take_turns(slot)

    def _may_send(self, channel: _Channel) -> bool:
        """Whether something waits, and neither the window nor the capacity is used up."""
        if not channel.waiting or channel.unacknowledged >= channel.window.width:
            return False
        return bool(channel.waiting[0].size) or channel.slot.open < self._capacity

    def _take_turns(self, slot: ConnectionSlot) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        slot.timer, slot.sending = None, True
        waits_s = []
        try:
            for _ in range(len(slot.waiting)):
                if slot.rate.wait_s(now_s):
                    break
                channel = slot.waiting.popleft()
                if not (wait_s := channel.rate.wait_s(now_s)):
                    self._send_next(channel, now_s)
                    wait_s = channel.rate.wait_s(now_s)
                channel.queued = self._may_send(channel)
                if channel.queued:
                    slot.waiting.append(channel)
                    waits_s.append(wait_s)
                else:
                    self._forget_if_idle(channel)
        finally:
            slot.sending = False
        if slot.waiting:
            # a channel that the loop did not reach may wait less: its turn comes with the slot's
            soonest_s = min(waits_s) if len(waits_s) == len(slot.waiting) else 0.0
            wait_s = max(soonest_s, slot.rate.wait_s(now_s))
            slot.timer = loop.call_later(wait_s, self._take_turns, slot)

    def _send_next(self, channel: _Channel, now_s: float) -> None:
        """Send the channel's next publish that was not given up and still has messages."""
        slot = channel.slot
        while channel.waiting:
            publish = channel.waiting.popleft()
            if publish.answer.done():  # given up just now: `_on_done` will not find it
                slot.open -= publish.size
                continue
            messages = _messages(publish)
            if not messages:
                if not publish.answer.done():
                    publish.answer.set_result(())
                continue
            channel.rate.spend(now_s, _cost(messages))
            slot.rate.spend(now_s)
            slot.used = True
            slot.open += len(messages) - publish.size
            channel.unacknowledged += 1
            on_result = partial(self._on_result, channel, publish.answer, now_s, len(messages))
            slot.sender.send(channel.name, messages, on_result)
            return

    def _on_result(
        self, channel: _Channel, answer: Ack, sent_s: float, count: int, result: Result
    ) -> None:
        slot, now_s = channel.slot, answer.get_loop().time()
        was_full = slot.open >= self._capacity
        slot.open -= count
        channel.unacknowledged -= 1
        took_s = now_s - sent_s
        channel.window.answered(took_s, slot.quickest.update(took_s, now_s), now_s)
        if not answer.done():  # else its caller has given it up
            if isinstance(result, ChannelUnavailable):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        self._pump(channel)
        self._forget_if_idle(channel)
        if was_full:
            for other in [each for each in self._channels.values() if each.slot is slot]:
                self._pump(other)

    def _on_done(self, channel: _Channel, answer: Ack) -> None:
        """Remove a publish that was given up, or refused by `close`, while it waited."""
        self._pending.discard(answer)
        if not (answer.cancelled() or self._closed):
            return
        given_up = [publish for publish in channel.waiting if publish.answer is answer]
        for publish in given_up:
            channel.waiting.remove(publish)
            channel.slot.open -= publish.size
        if channel.queued and not self._may_send(channel):
            channel.queued = False
            channel.slot.waiting.remove(channel)
        self._forget_if_idle(channel)

    def _forget_if_idle(self, channel: _Channel) -> None:
        if channel.idle and self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            channel.slot.load -= 1

    def _close_unused(self) -> None:
        for slot in self._slots[1:]:
            if not slot.load and not slot.used:
                self._slots.remove(slot)
                ending = asyncio.create_task(_end(slot), name="rehydrate slot closing")
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
            slot.used = False
        loop = asyncio.get_running_loop()
        more = len(self._slots) > 1
        self._timer = loop.call_later(self._check_every_s, self._close_unused) if more else None


def _messages(publish: _Publish) -> Sequence[Outgoing]:
    """Return the messages of *publish*, whose turn has come; none if it failed to make them."""
    if not callable(publish.batch):
        return publish.batch
    try:
        return publish.batch()
    except Exception as error:  # noqa: BLE001 - a bug of one caller must not stop the others
        publish.answer.set_exception(error)
        return ()


def _cost(messages: Sequence[Outgoing]) -> float:
    """Return how many publishes one with these *messages* counts as."""
    most = 0
    for message in messages:
        if not isinstance(message.data, str):
            most = _BYTES_PER_PUBLISH + 1
            break
        most += _HEADERS_BYTES + _MAX_UTF8_BYTES * len(message.data)
    if most <= _BYTES_PER_PUBLISH:  # nearly always, and found without counting bytes
        return 1.0
    try:
        size = sum(message.size_bytes for message in messages)
    except (TypeError, ValueError):  # data that is not JSON: the SDK will refuse it
        return 1.0
    return max(1.0, size / _BYTES_PER_PUBLISH)


async def _end(slot: ConnectionSlot) -> None:
    await slot.sender.close()
    await slot.sender.connection.close()
