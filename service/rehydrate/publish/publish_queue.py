"""The publish queue: what waits to be published, by channel, merged for as long as it waits.

Everything published passes this queue, once. There are two kinds of entries:

* *posted* publishes, complete when they are queued: prompts, stops, repairs, replayed events. Each
  is sent as it is, under ids that its caller chose, so that sending it again is harmless.
* *producers*, one per open response. A producer is asked for its next event only at the moment of
  sending; until then, tokens grow together into one event in its writer.

When the channel may publish, the transport calls back for a batch (`ChannelQueue.take`). Ably
counts publishes, not messages, so a batch contains one event of each producer in turn, as many as
fit one publish. Load therefore makes batches larger, not the queue longer: there is no backlog of
tokens to work off after a slow period.

Why one queue, and why here: the rates and connections belong to Ably, so its adapter decides *when*
a channel may publish; which events go out is decided here, as late as possible. If the adapter had
a queue of finished messages behind this one, text would wait there in the size it happened to have,
and a slow connection would fill that queue instead of merging tokens.

The properties this keeps:

* Order: an event gets its seq when its producer gives it out, and the events of a response come
  from one producer, on one channel, whose publishes are sent and resent in order.
* First tokens: an idle channel has no turn to wait for; `ready` sends within the call.
* Fairness: producers rotate event by event; posted publishes and batches alternate.
* Retries: the ids of a batch are set when it is taken. The adapter resends the same messages.
* Giving up: cancelling the future of a posted publish removes it while it waits, and its channel's
  request for a turn with it. Nothing remains reserved for it.
* Memory: per open channel, its posted publishes; text is in its writers, which limit it.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.core import codecs
from rehydrate.core.event import TEXTUAL, Event
from rehydrate.permits import PermitExpired
from rehydrate.ports import Outgoing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from rehydrate.ports import EventProducer, PublishTransport

    Ack = asyncio.Future[Sequence[str | None]]

BATCH_BYTES = 60_000
"""Of one publish: Ably adds up its messages (TM6), and accepts 64 KiB from every account."""

BATCH_MESSAGES = 100

_HEADERS_BYTES = 200
_MAX_UTF8_BYTES = 4


class _Posted(NamedTuple):
    """A publish that is complete, the future of its serials, and what permits it at its turn."""

    messages: list[Outgoing]
    ack: Ack
    is_permitted: Callable[[], bool] | None


class _Turn:
    """A request to the transport to publish: what is taken for it, and its result."""

    __slots__ = ("_pass_on", "_queue")

    def __init__(self, queue: ChannelQueue) -> None:
        self._queue = queue
        self._pass_on: Callable[[Ack], None] | None = None

    def take(self) -> Sequence[Outgoing]:
        """Return the messages to publish now; none if nothing is left to publish."""
        messages, self._pass_on = self._queue.take(self)
        return messages

    def ended(self, ack: Ack) -> None:
        """Pass the result on to what was taken."""
        if self._pass_on is None and not ack.cancelled():
            self.take()  # refused before its turn, as after closing: so is what it would have taken
        if self._pass_on is not None:
            self._pass_on(ack)


class ChannelQueue:
    """The publish queue of one channel, opened by `PublishQueue.channel`."""

    def __init__(
        self,
        name: str,
        transport: PublishTransport,
        next_base_id: Callable[[], str],
        on_idle: Callable[[ChannelQueue], None],
    ) -> None:
        self.name = name
        self.users = 0
        self._transport = transport
        self._next_base_id = next_base_id
        self._on_idle = on_idle
        self._producers: dict[EventProducer, None] = {}
        self._posted: deque[_Posted] = deque()
        self._posted_next = True
        self._turn: _Turn | None = None
        self._turn_ack: Ack | None = None
        self._requesting = False

    @property
    def idle(self) -> bool:
        """True if nothing waits and no block uses the queue."""
        return not (self.users or self._posted or self._producers or self._turn)

    def ready(self, producer: EventProducer) -> None:
        """Publish the events of *producer* as soon as the rate allows, at once if possible."""
        self._producers.setdefault(producer)
        self._request_turn()

    async def publish_one(self, event: Event) -> str | None:
        """Publish *event* by itself, under its own id; return its serial once acknowledged.

        Raises:
            ChannelUnavailable: it was refused, or not acknowledged.
        """
        serials = await self.post(event)
        return serials[0] if serials else None

    def post(self, event: Event, *, is_permitted: Callable[[], bool] | None = None) -> Ack:
        """Publish *event* by itself; the future resolves when it is acknowledged.

        Cancelling the future gives the publish up, if it was not sent yet.

        Args:
            event: the event, with its id.
            is_permitted: called at its turn, and each time before it is written to a connection;
                if it returns False, the publish is refused with `PermitExpired`.
        """
        return self.post_batch([event], is_permitted=is_permitted)

    def post_batch(
        self, events: Sequence[Event], *, is_permitted: Callable[[], bool] | None = None
    ) -> Ack:
        """Publish *events* together, all or none, as `post` does.

        Several events get ids that depend on their own ids only, so the same batch has the same
        ids whenever it is posted.
        """
        ack: Ack = asyncio.get_running_loop().create_future()
        messages = [outgoing(event)._replace(is_permitted=is_permitted) for event in events]
        if len(messages) > 1:
            ids = "\n".join(message.id for message in messages)
            base_id = hashlib.sha256(ids.encode("utf-8", "surrogatepass")).hexdigest()[:32]
            messages = [each._replace(id=f"{base_id}:{n}") for n, each in enumerate(messages)]
        self._posted.append(_Posted(messages, ack, is_permitted))
        ack.add_done_callback(self._drop_if_given_up)
        self._request_turn()
        return ack

    def take(self, turn: _Turn) -> tuple[Sequence[Outgoing], Callable[[Ack], None]]:
        """Return the next publish of the channel, and the callback for its result."""
        if self._turn is turn:
            self._turn = self._turn_ack = None
        taken = self._take_posted() if self._posted_next else None
        if taken is not None:
            self._posted_next = False
        elif (taken := self._take_batch()) is not None:
            self._posted_next = True
        else:
            taken = self._take_posted() or ((), _ignore)
        self._request_turn()
        self._on_idle(self)
        return taken

    def _request_turn(self) -> None:
        """Request a turn from the transport, if anything waits: one turn at a time."""
        if self._requesting:
            return  # within `publish` below: the loop continues
        self._requesting = True
        try:
            while self._turn is None and (self._posted or self._producers):
                turn = self._turn = _Turn(self)
                ack = self._transport.publish(self.name, turn.take)
                ack.add_done_callback(turn.ended)
                if self._turn is turn:
                    self._turn_ack = ack
        finally:
            self._requesting = False

    def _drop_if_given_up(self, ack: Ack) -> None:
        """Remove a posted publish that was cancelled, and a turn that nothing needs any more."""
        if not ack.cancelled():
            return
        self._posted = deque(each for each in self._posted if each.ack is not ack)
        if self._turn_ack is not None and not (self._posted or self._producers):
            waiting, self._turn, self._turn_ack = self._turn_ack, None, None
            waiting.cancel()
        self._on_idle(self)

    def _take_posted(self) -> tuple[Sequence[Outgoing], Callable[[Ack], None]] | None:
        while self._posted:
            posted = self._posted.popleft()
            if posted.ack.done():
                continue
            if posted.is_permitted is None or posted.is_permitted():
                return posted.messages, partial(_resolve, posted.ack)
            posted.ack.set_exception(PermitExpired("the publish waited too long for its turn"))
        return None

    def _take_batch(self) -> tuple[Sequence[Outgoing], Callable[[Ack], None]] | None:
        """Take one event of each producer in turn, as many as fit one publish."""
        batch: list[tuple[EventProducer, Event]] = []
        messages: list[Outgoing] = []
        size, base_id = 0, ""
        while self._producers and len(batch) < BATCH_MESSAGES:
            producer = next(iter(self._producers))
            event = producer.next_event()
            if event is None:
                del self._producers[producer]
                continue
            base_id = base_id or self._next_base_id()
            event = event._replace(id=f"{base_id}:{len(batch)}")
            message = outgoing(event)
            size += _max_bytes(event) or message.size_bytes
            if batch and size > BATCH_BYTES:
                break
            batch.append((producer, event))
            messages.append(message)
            producer.on_sent(event)
            del self._producers[producer]
            if producer.has_more:
                self._producers[producer] = None  # last: one event of each, in turn
        return (messages, partial(_acknowledge, batch)) if batch else None


class PublishQueue:
    """The publish queue of a process: one `ChannelQueue` for each channel in use.

    Args:
        transport: limits rates and gives each channel its turns.
    """

    def __init__(self, transport: PublishTransport) -> None:
        self._transport = transport
        self._channels: dict[str, ChannelQueue] = {}
        self._name = uuid.uuid4().hex[:16]
        self._count = 0

    @contextmanager
    def channel(self, channel_name: str, *, steady_per_s: float = 0.0) -> Iterator[ChannelQueue]:
        """Open the queue of a channel for the block.

        Args:
            channel_name: the channel to publish on.
            steady_per_s: publishes a second that the caller sends at fixed times, so that they
                cannot be merged while they wait; capacity is reserved for them.
        """
        queue = self._channels.get(channel_name)
        if queue is None:
            queue = ChannelQueue(
                channel_name, self._transport, self._next_base_id, self._forget_if_idle
            )
            self._channels[channel_name] = queue
        queue.users += 1
        try:
            with self._transport.reserve(channel_name, steady_per_s=steady_per_s):
                yield queue
        finally:
            queue.users -= 1
            self._forget_if_idle(queue)

    def _forget_if_idle(self, queue: ChannelQueue) -> None:
        if queue.idle and self._channels.get(queue.name) is queue:
            del self._channels[queue.name]

    def _next_base_id(self) -> str:
        self._count += 1
        return f"{self._name}-{self._count}"


def outgoing(event: Event) -> Outgoing:
    """Return the channel message that encodes *event*."""
    name, data, extras = codecs.encode(event)
    return Outgoing(name, data, event.id or "", extras, event.client_id)


def packed(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Yield *events* in order, in lists that each fit one publish."""
    batch: list[Event] = []
    size = 0
    for event in events:
        more = outgoing(event).size_bytes
        if batch and (size + more > BATCH_BYTES or len(batch) == BATCH_MESSAGES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += more
    if batch:
        yield batch


def _max_bytes(event: Event) -> int:
    """Return a cheap upper bound of the message's `size_bytes`; 0: it has to be counted."""
    if event.kind not in TEXTUAL or event.part is not None:
        return 0
    characters = len(event.text or "") + len(event.message_id or "") + len(event.client_id or "")
    return _HEADERS_BYTES + _MAX_UTF8_BYTES * characters


def _acknowledge(batch: list[tuple[EventProducer, Event]], ack: Ack) -> None:
    refused = ack.cancelled() or ack.exception() is not None
    serials = [None] * len(batch) if refused else ack.result()
    for (producer, event), serial in zip(batch, serials, strict=False):
        producer.on_acknowledged(event, serial, refused=refused)


def _resolve(waiter: Ack, ack: Ack) -> None:
    if waiter.done():
        return
    if ack.cancelled():
        waiter.cancel()
    elif (error := ack.exception()) is not None:
        waiter.set_exception(error)
    else:
        waiter.set_result(ack.result())


def _ignore(ack: Ack) -> None:
    if not ack.cancelled():
        ack.exception()  # retrieved: nothing was published, so nothing failed
