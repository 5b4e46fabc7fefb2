"""A subscription: an attached channel, its messages in order, and every hole marked."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING

from ably.types.channelmode import ChannelMode
from ably.types.channeloptions import ChannelOptions
from ably.types.channelstate import ChannelState
from ably.types.connectionstate import ConnectionState
from ably.util.exceptions import AblyException

from rehydrate.ably.backoff import Backoff
from rehydrate.ably.errors import CAPABILITY, as_ours, described
from rehydrate.ably.messages import from_live
from rehydrate.ably.sdk_fixes import harden
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.ports import Discontinuity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ably import AblyRealtime
    from ably.realtime.channel import RealtimeChannel
    from ably.types.channelstate import ChannelStateChange
    from ably.types.message import Message

    from rehydrate.ably.connection_pool import Assignment
    from rehydrate.core.event import ChannelMessage

_LOG = logging.getLogger("rehydrate.ably")

_FIRST_DELAY_S = 0.1
_LONGEST_DELAY_S = 30.0
_TOO_MUCH = 80020
"""Ably's code for messages that were dropped, because the connection had too many."""

_GONE = (ChannelState.SUSPENDED, ChannelState.FAILED, ChannelState.DETACHED)


class LiveSubscription:
    """Attaches *channel* where it has its *stay*, and collects.

    Whenever messages may have been missed, the channel is attached anew, so that it rewinds again:
    what the reader reads next overlaps with what it then reads of history. (The SDK's own way of
    attaching again does not rewind, and forgets where it was when it was suspended, gap 8.)

    Attributes:
        attach_serial: the attach point, if the SDK tells it (gap 3).
    """

    attach_serial: str | None = None

    def __init__(
        self, stay: Assignment, channel: str, *, rewind: str | None, capacity: int, timeout_s: float
    ) -> None:
        self._stay = stay
        self._line = stay.line
        self._name = channel
        self._params = {"rewind": rewind} if rewind else None
        self._capacity = capacity
        self._timeout_s = timeout_s
        self._items: deque[ChannelMessage | Discontinuity] = deque()
        self._arrived = asyncio.Event()
        self._broken = asyncio.Event()
        self._why: str | None = None
        self._fresh = self._collecting = self._overflowed = self._closed = False
        self._crowded = False
        self._client: AblyRealtime | None = None
        self._channel: RealtimeChannel | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Attach.

        Raises:
            ChannelUnavailable: Ably does not answer in time.
            ChannelRefused: Ably does not let us.
        """
        await self._attach()
        self._line.riders.append(self)
        self._keeper = asyncio.create_task(self._keep(), name="rehydrate subscription")
        self._keeper.add_done_callback(lambda _: self._arrived.set())

    async def close(self) -> bool:
        """Detach; whether Ably knows that we did."""
        self._closed = True
        self._arrived.set()
        if self in self._line.riders:
            self._line.riders.remove(self)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        return await self._leave()

    def __aiter__(self) -> AsyncIterator[ChannelMessage | Discontinuity]:
        return self

    async def __anext__(self) -> ChannelMessage | Discontinuity:
        while not self._items:
            if self._closed:
                raise StopAsyncIteration
            if self._keeper is not None and self._keeper.done():
                self._keeper.result()  # raises what ended it: nothing should
            if self._overflowed:
                # only now: before its reader is back, a rewind would overflow it again
                self._overflowed = False
                self._break("attached anew after messages were dropped")
            self._arrived.clear()
            await self._arrived.wait()
        return self._items.popleft()

    @property
    def idle(self) -> bool:
        """See the port."""
        return not self._items

    async def heard_within(self, within_s: float) -> bool:
        """See the port."""
        return (
            self._collecting
            and not self._broken.is_set()
            and await self._line.heard_within(within_s)
            and self._collecting
        )

    def up(self, client: AblyRealtime) -> None:
        """Attach on *client* if it is another than before; the SDK resumes its own."""
        if self._client is not None and client is not self._client:
            self._break("the connection was replaced")

    def down(self) -> None:
        """Nothing: the SDK resumes, or says that it could not."""

    def refused(self, refusal: ChannelRefused) -> None:
        """Tell the reader that nothing comes any more."""
        self._tell(str(refusal))

    async def _keep(self) -> None:
        """Attach anew whenever something broke, until it works."""
        while True:
            await self._broken.wait()
            backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
            while self._broken.is_set():
                self._broken.clear()
                try:
                    clean = await self._leave()
                    if self._crowded:
                        self._crowded = False
                        await self._move(clean=clean)
                    await self._attach()
                except ChannelUnavailable as error:
                    _LOG.warning("attaching a channel again: %s", error)
                    self._tell(str(error))
                    self._broken.set()
                await asyncio.sleep(backoff.next_s())

    async def _move(self, *, clean: bool) -> None:
        """Ride another line, if others ride this one as well: Ably drops what is too much for it."""
        self._line.riders.remove(self)
        await self._stay.move(clean=clean)
        self._line = self._stay.line
        self._line.riders.append(self)

    async def _attach(self) -> None:
        client = self._client = await self._line.client()
        self._fresh = True
        options = ChannelOptions(params=self._params, modes=[ChannelMode.SUBSCRIBE])
        channel = self._channel = client.channels.get(self._name, options)
        harden(channel)
        channel.on(self._on_state)
        try:
            async with asyncio.timeout(self._timeout_s):
                # Both at once, so that both listen before the first message comes. Gap 12: a
                # message named "error" that nobody listens to takes its neighbours with it.
                await asyncio.gather(
                    channel.subscribe(self._on_message), channel.subscribe("error", _ignore)
                )
        except TimeoutError:
            raise ChannelUnavailable(f"attaching: no answer within {self._timeout_s:g} s") from None
        except (AblyException, TypeError) as error:  # gap 13: it raises None when detached
            raise as_ours(error, "attaching") from error
        if channel.state is not ChannelState.ATTACHED:  # gap 13: or returns silently
            raise ChannelUnavailable(f"attaching: the channel is {channel.state.value}")
        if channel.modes and ChannelMode.SUBSCRIBE not in channel.modes:
            raise ChannelRefused(CAPABILITY, "attaching: not allowed to subscribe")

    async def _leave(self) -> bool:
        """Let go of the channel; whether Ably knows."""
        self._collecting = self._fresh = False
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
                    await channel.detach()  # gap 13: releasing it would not do it
                clean = True
        except (TimeoutError, AblyException, TypeError) as error:
            _LOG.debug("detaching a channel: %s", described(error))
        finally:
            client.channels.release(self._name)
        return clean

    def _on_state(self, change: ChannelStateChange) -> None:
        if change.current is ChannelState.ATTACHED:
            if self._fresh:
                self._fresh = False
                # gap 3: private, and absent one day
                serial = getattr(self._channel, "_RealtimeChannel__attach_serial", None)
                self.attach_serial = serial if isinstance(serial, str) else None
                if self._why is not None:
                    self._put(Discontinuity(self._why))
                self._collecting = True
            elif not change.resumed:
                self._crowded = getattr(change.reason, "code", None) == _TOO_MUCH
                self._break(f"attached without resuming: {described(change.reason)}")
        elif change.current in _GONE and self._collecting:
            why = f"the channel is {change.current.value}: {described(change.reason)}"
            self._tell(why)
            self._break(why)

    def _on_message(self, message: Message) -> None:
        """Collect; a plain function, since the SDK runs async ones side by side (gap 12)."""
        self._stay.heard()
        if not self._collecting:
            return
        if len(self._items) >= self._capacity:
            self._items.clear()
            self._collecting, self._overflowed = False, True
            self._tell(f"more than {self._capacity} messages waited to be read")
            return
        self._put(from_live(message))

    def _break(self, why: str) -> None:
        self._collecting = False
        self._why = why
        self._broken.set()

    def _tell(self, why: str) -> None:
        """Say at once that messages are being missed; once, however long that takes."""
        if not (self._items and isinstance(self._items[-1], Discontinuity)):
            self._put(Discontinuity(why))

    def _put(self, item: ChannelMessage | Discontinuity) -> None:
        self._items.append(item)
        self._arrived.set()


def _ignore(_: object) -> None:
    """Listen, so that somebody does."""
