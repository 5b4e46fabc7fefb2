"""A subscription: an attached channel, its messages in order, every discontinuity marked.

Ably delivers the backlog (the rewound messages, or those missed before a resume) after ATTACHED and
before live messages, but not at once. How far it has been received is not visible: a ping is
answered by the connection, whatever its channels still have to deliver. A partly received
rewind must not count as a whole one, so its end is proved by the order of deliveries, in one of these
ways, and marked by a `BacklogEnd`:

* ATTACHED has no flag HAS_BACKLOG: there is none.
* An echo: after the attach an ephemeral message with a random id is published on the channel. When
  it is delivered, everything before it was. It is dropped here, and all others named so.
* A message is delivered whose timestamp is later than the attach by more than clocks differ.

A key that may not publish has no echo; then the end may remain unproved.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable

from ably import AblyRealtime
from ably.realtime.channel import RealtimeChannel
from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.channelstate import ChannelState, ChannelStateChange
from ably.types.connectionstate import ConnectionState
from ably.types.message import Message
from ably.util.exceptions import AblyException

from rehydrate.ably.connection_pool import Assignment
from rehydrate.ably.errors import CAPABILITY, channel_error, describe
from rehydrate.ably.rest import from_live
from rehydrate.ably.sdk_fixes import harden
from rehydrate.background import Backoff, SupervisedTask
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.ports import BacklogEnd, Delivered, Discontinuity

_LOG = logging.getLogger("rehydrate.ably")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 30.0
_MESSAGES_DROPPED = 80020
"""Ably's code for deliveries dropped because the connection exceeded its rate."""

_ECHO = "rehydrate.echo"
"""The name of the messages that prove the end of a backlog; every reader ignores it."""

_ECHO_ATTEMPTS = 4
_CLOCKS_DIFFER_MS = 2_000
"""A message up to this much newer than the attach may still belong to the backlog."""

_GONE = (ChannelState.SUSPENDED, ChannelState.FAILED, ChannelState.DETACHED)


class LiveSubscription:
    """Attaches *channel* on the connection of its *assignment*, and buffers its messages.

    Whenever messages may have been missed, the channel is detached and attached again, so that it
    rewinds again: the messages delivered next then overlap with the history that the reader reads.
    (The SDK's own re-attach does not rewind, and loses its position when suspended, gap 8.)

    Attributes:
        attach_serial: the attach point, if the SDK exposes it (gap 3).
    """

    attach_serial: str | None = None

    def __init__(
        self,
        assignment: Assignment,
        channel: str,
        *,
        now_ms: Callable[[], int],
        rewind: str | None,
        capacity: int,
        timeout_s: float,
    ) -> None:
        self._assignment = assignment
        self._connection = assignment.connection
        self._name = channel
        self._params = {"rewind": rewind} if rewind else None
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._now_ms = now_ms
        self._items: deque[Delivered] = deque()
        self._item_added = asyncio.Event()
        self._reattach_needed = asyncio.Event()
        self._reattach_reason: str | None = None
        self._attaching = self._collecting = self._overflowed = self._closed = False
        self._overloaded = False
        self._client: AblyRealtime | None = None
        self._channel: RealtimeChannel | None = None
        self._task = SupervisedTask("rehydrate subscription", self._reattach_loop)
        self._echoing: asyncio.Task[None] | None = None
        self._echo_id: str | None = None
        self._attached_ms = 0
        self._has_backlog = True
        self._backlog_ended = False

    async def open(self) -> None:
        """Attach.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably refuses the attach.
        """
        await self._attach()
        self._connection.listeners.append(self)
        self._task.open()

    async def close(self) -> bool:
        """Detach. Return whether Ably has confirmed it."""
        self._closed = True
        self._item_added.set()
        if self in self._connection.listeners:
            self._connection.listeners.remove(self)
        await self._task.close(self._timeout_s)
        if self._echoing is not None:
            self._echoing.cancel()
            await asyncio.gather(self._echoing, return_exceptions=True)
        return await self._detach()

    def __aiter__(self) -> AsyncIterator[Delivered]:
        return self

    async def __anext__(self) -> Delivered:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._overflowed:
                # Not before the reader has caught up: a rewind would overflow the buffer again.
                self._overflowed = False
                self._reattach("attached again after messages were dropped")
            self._item_added.clear()
            await self._item_added.wait()
        return self._items.popleft()

    @property
    def idle(self) -> bool:
        """See the port."""
        return not self._items

    async def alive_within(self, within_s: float) -> bool:
        """See the port."""
        return (
            self._collecting
            and self._backlog_ended
            and not self._reattach_needed.is_set()
            and await self._connection.alive_within(within_s)
            and self._collecting
        )

    def up(self, client: AblyRealtime) -> None:
        """Attach again if *client* is a replacement; otherwise the SDK resumes."""
        if self._client is not None and client is not self._client:
            self._reattach("the connection was replaced")

    def down(self) -> None:
        """Expect a backlog: the SDK resumes, or reports that it could not."""
        self._backlog_ended = False

    def refused(self, refusal: ChannelRefused) -> None:
        """Report to the reader that deliveries have stopped."""
        self._report_gap(str(refusal))

    async def _reattach_loop(self) -> None:
        """Attach again whenever that was requested, retrying until it succeeds."""
        if self._task.restarts:  # it may have ended between a detach and an attach
            self._reattach("its task ended and was started again")
        while True:
            await self._reattach_needed.wait()
            backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
            while self._reattach_needed.is_set():
                self._reattach_needed.clear()
                try:
                    clean = await self._detach()
                    if self._overloaded:
                        self._overloaded = False
                        await self._move(clean=clean)
                    await self._attach()
                except ChannelUnavailable as error:
                    _LOG.warning("attaching a channel again: %s", error)
                    self._report_gap(str(error))
                    self._reattach_needed.set()
                await asyncio.sleep(backoff.next_s())

    async def _move(self, *, clean: bool) -> None:
        """Move to another connection if this one is shared and delivers more than Ably allows."""
        self._connection.listeners.remove(self)
        await self._assignment.move(clean=clean)
        self._connection = self._assignment.connection
        self._connection.listeners.append(self)

    async def _attach(self) -> None:
        client = self._client = await self._connection.client()
        self._attaching = True
        modes = [ChannelMode.SUBSCRIBE, ChannelMode.PUBLISH]
        options = ChannelOptions(params=self._params, modes=modes)
        channel = self._channel = client.channels.get(self._name, options)
        harden(channel, self._on_attached)
        channel.on(self._on_state)
        try:
            async with asyncio.timeout(self._timeout_s):
                # Both at once, so that both are registered before the first message. Gap 12: a
                # message named "error" without a listener loses the other messages of its frame.
                await asyncio.gather(
                    channel.subscribe(self._on_message), channel.subscribe("error", _ignore)
                )
        except TimeoutError:
            raise ChannelUnavailable(f"attaching: no answer within {self._timeout_s:g} s") from None
        except (AblyException, TypeError) as error:  # gap 13: raises None when detached
            raise channel_error(error, "attaching") from error
        if channel.state is not ChannelState.ATTACHED:  # gap 13: or returns silently
            raise ChannelUnavailable(f"attaching: the channel is {channel.state.value}")
        if channel.modes and ChannelMode.SUBSCRIBE not in channel.modes:
            raise ChannelRefused(CAPABILITY, "attaching: not allowed to subscribe")

    async def _detach(self) -> bool:
        """Detach and release the channel. Return whether Ably has confirmed it."""
        self._collecting = self._attaching = False
        client, channel = self._client, self._channel
        self._client = self._channel = None
        if client is None or channel is None:
            return True
        channel.off(self._on_state)
        channel.unsubscribe()
        clean = channel.state not in (ChannelState.ATTACHED, ChannelState.ATTACHING)
        try:
            if not clean and client.connection.state is ConnectionState.CONNECTED:
                async with asyncio.timeout(self._timeout_s):
                    await channel.detach()  # gap 13: a release does not detach
                clean = True
        except (TimeoutError, AblyException, TypeError) as error:
            _LOG.debug("detaching a channel: %s", describe(error))
        finally:
            client.channels.release(self._name)
        return clean

    def _on_state(self, change: ChannelStateChange) -> None:
        if change.current is ChannelState.ATTACHED:
            if self._attaching:
                self._attaching = False
                # gap 3: a private attribute, which may disappear
                serial = getattr(self._channel, "_RealtimeChannel__attach_serial", None)
                self.attach_serial = serial if isinstance(serial, str) else None
                if self._reattach_reason is not None:
                    self._put(Discontinuity(self._reattach_reason, self.attach_serial))
                self._collecting = True
                self._find_backlog_end()
            elif not change.resumed:
                self._overloaded = getattr(change.reason, "code", None) == _MESSAGES_DROPPED
                self._reattach(f"attached without resuming: {describe(change.reason)}")
            else:
                self._has_backlog = True  # it may be set or not: what was missed may follow
                self._find_backlog_end()
        elif change.current in _GONE and self._collecting:
            reason = f"the channel is {change.current.value}: {describe(change.reason)}"
            self._report_gap(reason)
            self._reattach(reason)

    def _on_message(self, message: Message) -> None:
        """Buffer a message. Not async: the SDK runs async listeners concurrently (gap 12)."""
        self._assignment.count_message()
        if not self._collecting:
            return
        if message.name == _ECHO:
            if message.id == self._echo_id:
                self._end_backlog(proved=True)
            return
        if not self._backlog_ended and self._is_live(message):
            self._end_backlog(proved=True)
        if len(self._items) >= self._capacity:
            self._items.clear()
            self._collecting, self._overflowed = False, True
            self._report_gap(f"more than {self._capacity} messages waited to be read")
            return
        self._put(from_live(message))

    def _on_attached(self, has_backlog: bool) -> None:
        """Note whether a backlog follows; without a rewind there can be none at the first attach."""
        self._has_backlog = has_backlog and self._params is not None

    def _find_backlog_end(self) -> None:
        """Prove the end of the backlog that follows, if there is one."""
        self._attached_ms, self._backlog_ended = self._now_ms(), False
        if self._echoing is not None:
            self._echoing.cancel()
        if not self._has_backlog:
            self._end_backlog(proved=True)
            return
        self._echo_id = secrets.token_hex(16)
        echo = Message(name=_ECHO, id=self._echo_id, extras={"ephemeral": True})
        self._echoing = asyncio.create_task(self._echo(echo), name="echo of a backlog's end")

    async def _echo(self, echo: Message) -> None:
        """Publish *echo*, retrying where that may help; report if it cannot be published."""
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        for _ in range(_ECHO_ATTEMPTS):
            channel = self._channel
            if (
                self._backlog_ended
                or channel is None
                or (channel.modes and ChannelMode.PUBLISH not in channel.modes)
            ):
                break
            try:
                async with asyncio.timeout(self._timeout_s):
                    await channel.publish(echo)
            except (TimeoutError, AblyException, TypeError) as error:
                _LOG.debug("no echo of a backlog's end: %s", describe(error))
            else:
                return
            await asyncio.sleep(backoff.next_s())
        if not self._backlog_ended:
            self._end_backlog(proved=False)

    def _is_live(self, message: Message) -> bool:
        return (message.timestamp or 0) > self._attached_ms + _CLOCKS_DIFFER_MS

    def _end_backlog(self, *, proved: bool) -> None:
        self._backlog_ended = proved
        if self._params is not None:
            self._put(BacklogEnd(proved))

    def _reattach(self, reason: str) -> None:
        self._collecting = False
        self._reattach_reason = reason
        self._reattach_needed.set()

    def _report_gap(self, reason: str) -> None:
        """Add a `Discontinuity` at once, unless the last item already is one."""
        if not (self._items and isinstance(self._items[-1], Discontinuity)):
            self._put(Discontinuity(reason))

    def _put(self, item: Delivered) -> None:
        self._items.append(item)
        self._item_added.set()


def _ignore(_: object) -> None:
    """Do nothing: a listener must exist (gap 12)."""
