"""Publishing without waiting: in order, acknowledged, and again where a connection was lost."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from ably.types.channelstate import ChannelState
from ably.types.connectionstate import ConnectionState
from ably.types.message import Message
from ably.util.exceptions import AblyException

from rehydrate.ably.errors import channel_error, describe
from rehydrate.errors import ChannelRefused, ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ably import AblyRealtime
    from ably.realtime.channel import RealtimeChannel

    from rehydrate.ably.connection import Connection
    from rehydrate.ports import Outgoing

_TICK_S = 0.25
_CHANNELS_KEPT = 1_000
_UNENCODABLE = 40013
_SERVER_ERROR = 500
_BAD_DATA = (TypeError, ValueError, OverflowError)


class _Parcel:
    """One publish on its way."""

    __slots__ = ("answer", "channel", "count", "expires_s", "messages")

    def __init__(
        self,
        channel: str,
        messages: list[Message],
        answer: asyncio.Future[Sequence[str | None]],
        expires_s: float,
    ) -> None:
        self.channel = channel
        self.messages = messages
        self.count = len(messages)
        self.answer = answer
        self.expires_s = expires_s

    def refuse(self, error: ChannelUnavailable) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class ChannelSender:
    """Sends what it is given, in the order in which it is given it.

    A message whose connection is lost before its acknowledgement is sent again on the next, with
    the same id and before all later ones: Ably drops it if it has it already. (The SDK's own way
    of sending again may send twice or with a used serial, gap 11; it is switched off.)

    Args:
        line: the connection.
        capacity: how many messages may be without acknowledgement.
        ack_timeout_s: how long to wait for one.
    """

    def __init__(self, line: Connection, *, capacity: int, ack_timeout_s: float) -> None:
        self._line = line
        self._capacity = capacity
        self._ack_timeout_s = ack_timeout_s
        self._open = 0
        self._waiting: deque[_Parcel] = deque()
        self._sent: dict[asyncio.Task[Any], _Parcel] = {}
        self._client: AblyRealtime | None = None
        self._channels: OrderedDict[str, RealtimeChannel] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        line.listeners.append(self)

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way."""
        return not self._open

    def publish(
        self, channel: str, messages: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[str | None]]:
        """Send; see `rehydrate.ports.ChannelLog.publish`."""
        loop = asyncio.get_running_loop()
        parcel = _Parcel(
            channel,
            [_as_sdk(message) for message in messages],
            loop.create_future(),
            loop.time() + self._ack_timeout_s,
        )
        if self._closed:
            parcel.refuse(ChannelUnavailable("the channel is closed"))
        elif self._open + parcel.count > self._capacity:
            parcel.refuse(
                ChannelUnavailable(
                    f"{self._open} messages are not acknowledged by Ably yet, and "
                    f"{self._capacity} is the limit: this one was not sent"
                )
            )
        else:
            self._open += parcel.count
            self._waiting.append(parcel)
            self._line.start()
            self._flush()
            if self._timer is None:
                self._timer = loop.call_later(_TICK_S, self._tick)
        return parcel.answer

    async def close(self, grace_s: float) -> None:
        """Wait up to *grace_s* seconds for what is on its way, then send nothing more."""
        self._closed = True
        answers = [p.answer for p in chain(self._sent.values(), self._waiting)]
        if answers:
            await asyncio.wait(answers, timeout=grace_s)
        self._fail_all(lambda: ChannelUnavailable("closed before Ably acknowledged the message"))
        if self._timer is not None:
            self._timer.cancel()

    def up(self, client: AblyRealtime) -> None:
        """Send what waits, on *client*."""
        if client is not self._client:
            self._channels.clear()
        self._client = client
        self._flush()

    def down(self) -> None:
        """Take back what was not acknowledged, to send it again."""
        self._client = None
        self._channels.clear()
        # a dictionary keeps its order: what was sent first is sent first again
        self._waiting.extendleft(reversed(self._sent.values()))
        self._sent = {}

    def refused(self, refusal: ChannelRefused) -> None:
        """Ably will not have us: nothing that waits can be sent."""
        self._fail_all(lambda: ChannelRefused(refusal.ably_code, str(refusal)))

    def _flush(self) -> None:
        """Hand over what waits.

        Tasks begin in the order in which they are made, and the SDK writes each publish to its
        socket before it waits for anything: so the order is kept, across channels too.
        """
        client = self._client
        if client is None:
            return
        loop = asyncio.get_running_loop()
        while self._waiting:
            parcel = self._waiting.popleft()
            task = loop.create_task(self._channel(client, parcel.channel).publish(parcel.messages))
            self._sent[task] = parcel
            task.add_done_callback(self._answered)

    def _channel(self, client: AblyRealtime, name: str) -> RealtimeChannel:
        found = self._channels.get(name)
        if found is not None and found.state is not ChannelState.FAILED:
            self._channels.move_to_end(name)
            return found
        client.channels.release(name)
        found = self._channels[name] = client.channels.get(name)
        while len(self._channels) > _CHANNELS_KEPT:
            oldest, _ = self._channels.popitem(last=False)
            client.channels.release(oldest)
        return found

    def _answered(self, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        parcel = self._sent.get(task)
        if parcel is None:
            return  # taken back, or given up
        if task.cancelled() or (error is not None and self._is_loss(error)):
            self._line.force_reconnect()
            self.down()
            return
        del self._sent[task]
        self._open -= parcel.count
        if error is not None:
            parcel.refuse(_refusal_of(error))
        elif not parcel.answer.done():
            parcel.answer.set_result(task.result().serials or [None] * parcel.count)

    def _is_loss(self, error: BaseException) -> bool:
        """Whether the connection failed, and not the publish."""
        client = self._client
        if client is None or client.connection.state is not ConnectionState.CONNECTED:
            return True
        return not isinstance(error, (AblyException, *_BAD_DATA))

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        late = [task for task, parcel in self._sent.items() if parcel.expires_s <= now_s]
        for task in late:
            self._give_up(self._sent.pop(task), "did not acknowledge it within")
        if late:
            self._line.ping_now()
        while self._waiting and self._waiting[0].expires_s <= now_s:
            self._give_up(self._waiting.popleft(), "could not be reached for")
        busy = self._sent or self._waiting
        self._timer = loop.call_later(_TICK_S, self._tick) if busy else None

    def _give_up(self, parcel: _Parcel, why: str) -> None:
        self._open -= parcel.count
        parcel.refuse(
            ChannelUnavailable(
                f"Ably {why} {self._ack_timeout_s:g} s; the message may have been published"
            )
        )

    def _fail_all(self, error: Callable[[], ChannelUnavailable]) -> None:
        for parcel in chain(self._sent.values(), self._waiting):
            parcel.refuse(error())
        self._sent = {}
        self._waiting.clear()
        self._open = 0


def _as_sdk(message: Outgoing) -> Message:
    return Message(
        name=message.name,
        data=message.data,
        id=message.id,
        client_id=message.client_id,
        extras=message.extras,
    )


def _refusal_of(error: BaseException) -> ChannelUnavailable:
    if isinstance(error, _BAD_DATA):
        return ChannelRefused(
            _UNENCODABLE, f"the message cannot be encoded: {type(error).__name__}"
        )
    if isinstance(error, AblyException) and (error.status_code or 0) < _SERVER_ERROR:
        # a no, also where the same might be granted later (429): it was not published
        return ChannelRefused(int(error.code or 0), f"publishing: {describe(error)}")
    return channel_error(error, "publishing")
