"""Sending over one connection: in order, acknowledged, and again after a lost connection."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any

from ably.types.channelstate import ChannelState
from ably.types.connectionstate import ConnectionState
from ably.types.message import Message
from ably.util.exceptions import AblyException

from rehydrate.ably.errors import channel_error, describe
from rehydrate.core.json import dump
from rehydrate.errors import ChannelRefused, ChannelUnavailable
from rehydrate.permits import PermitExpired

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ably import AblyRealtime
    from ably.realtime.channel import RealtimeChannel

    from rehydrate.ably.connection import Connection
    from rehydrate.ports import Outgoing

    Result = Sequence[str | None] | ChannelUnavailable

_TICK_S = 0.25
_CHANNELS_KEPT = 1_000
_UNENCODABLE = 40013
_SERVER_ERROR = 500
_BAD_DATA = (TypeError, ValueError, OverflowError)


class _Unacknowledged:
    """A publish without acknowledgement; ``task`` is None until it is written to a connection."""

    __slots__ = ("channel", "expires_s", "is_permitted", "messages", "on_result", "task")

    def __init__(
        self,
        channel: str,
        messages: list[Message],
        on_result: Callable[[Result], None],
        expires_s: float,
        is_permitted: Callable[[], bool] | None,
    ) -> None:
        self.channel = channel
        self.messages = messages
        self.on_result = on_result
        self.expires_s = expires_s
        self.is_permitted = is_permitted
        self.task: asyncio.Task[Any] | None = None


class Sender:
    """Sends publishes over one connection, in order, and resends them after it was lost.

    A publish stays in the list of unacknowledged ones until Ably acknowledges or refuses it, or its
    time limit passes. After a reconnect the list is sent again from its start, before anything
    later, with the same ids: Ably drops a message whose id it has already (RSL1k). The SDK's own
    resending may publish twice, or with a serial that was used (gap 11); it is switched off.

    Args:
        connection: the connection.
        ack_timeout_s: how long to wait for an acknowledgement.
    """

    def __init__(self, connection: Connection, *, ack_timeout_s: float) -> None:
        self.connection = connection
        self._ack_timeout_s = ack_timeout_s
        self._unacknowledged: dict[_Unacknowledged, None] = {}
        self._client: AblyRealtime | None = None
        self._channels: OrderedDict[str, RealtimeChannel] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        connection.listeners.append(self)

    def send(
        self, channel: str, messages: Sequence[Outgoing], on_result: Callable[[Result], None]
    ) -> None:
        """Send *messages* as one publish, after all that were sent before.

        Args:
            channel: the channel's name.
            messages: the messages of the publish.
            on_result: called once, perhaps within this call: with the messages' serials when Ably
                acknowledges them, or with `ChannelRefused` or `ChannelUnavailable`. A callback
                rather than a future, which would cost a turn of the event loop for each publish.
        """
        if self._closed:
            on_result(ChannelUnavailable("the Ably channel log is closed"))
            return
        try:
            encoded = [_to_sdk(message) for message in messages]
        except _BAD_DATA as error:
            on_result(_refusal_of(error))
            return
        loop = asyncio.get_running_loop()
        expires_s, permit = loop.time() + self._ack_timeout_s, messages[0].is_permitted
        publish = _Unacknowledged(channel, encoded, on_result, expires_s, permit)
        self._unacknowledged[publish] = None
        self.connection.start()
        if self._client is not None:
            self._write(self._client, publish)
        if self._timer is None:
            self._timer = loop.call_later(_TICK_S, self._tick)

    async def close(self) -> None:
        """Fail everything that has no acknowledgement, and send nothing more."""
        self._closed = True
        self._fail_all(lambda: ChannelUnavailable("closed before Ably acknowledged the message"))
        if self._timer is not None:
            self._timer.cancel()

    def up(self, client: AblyRealtime) -> None:
        """Send everything unacknowledged, in order, on *client*."""
        if client is not self._client:
            self._channels.clear()
        self._client = client
        for publish in list(self._unacknowledged):
            if publish.task is None:
                self._write(client, publish)

    def down(self) -> None:
        """Mark everything unacknowledged as not sent."""
        self._client = None
        self._channels.clear()
        for publish in self._unacknowledged:
            publish.task = None

    def refused(self, refusal: ChannelRefused) -> None:
        """Fail everything: Ably refuses the connection."""
        self._fail_all(lambda: ChannelRefused(refusal.ably_code, str(refusal)))

    def _write(self, client: AblyRealtime, publish: _Unacknowledged) -> None:
        """Hand *publish* to the SDK, or fail it if it is not permitted any more.

        Tasks start in the order in which they are created, and the SDK writes each publish to its
        socket before it first waits, so the order is kept, across channels too.
        """
        if publish.is_permitted is not None and not publish.is_permitted():
            del self._unacknowledged[publish]
            publish.on_result(PermitExpired("the publish waited too long for a connection"))
            return
        channel = self._channel(client, publish.channel)
        publish.task = asyncio.create_task(channel.publish(publish.messages))
        publish.task.add_done_callback(partial(self._on_sent, publish))

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

    def _on_sent(self, publish: _Unacknowledged, task: asyncio.Task[Any]) -> None:
        error = None if task.cancelled() else task.exception()
        if publish.task is not task or publish not in self._unacknowledged:
            return  # it will be sent again, or was given up
        if task.cancelled() or (error is not None and self._is_loss(error)):
            self.connection.force_reconnect()
            self.down()
            return
        del self._unacknowledged[publish]
        if error is not None:
            publish.on_result(_refusal_of(error))
        else:
            publish.on_result(task.result().serials or [None] * len(publish.messages))

    def _is_loss(self, error: BaseException) -> bool:
        """Return whether the connection failed, and not the publish."""
        client = self._client
        if client is None or client.connection.state is not ConnectionState.CONNECTED:
            return True
        return not isinstance(error, (AblyException, *_BAD_DATA))

    def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        for publish in list(self._unacknowledged):  # in the order in which they expire
            if publish.expires_s > now_s:
                break
            if publish not in self._unacknowledged:
                continue  # failed in the meantime, by the callback of another result
            del self._unacknowledged[publish]
            if publish.task is not None:
                self.connection.ping_now()
            why = (
                "could not be reached for"
                if publish.task is None
                else "did not acknowledge it within"
            )
            publish.on_result(
                ChannelUnavailable(
                    f"Ably {why} {self._ack_timeout_s:g} s; the message may have been published"
                )
            )
        busy = bool(self._unacknowledged)
        self._timer = loop.call_later(_TICK_S, self._tick) if busy else None

    def _fail_all(self, error: Callable[[], ChannelUnavailable]) -> None:
        failing, self._unacknowledged = self._unacknowledged, {}
        for publish in failing:
            publish.on_result(error())


def _to_sdk(message: Outgoing) -> Message:
    """Return *message* for the SDK, with JSON encoded in UTF-8: the SDK would escape all but ASCII.

    Raises:
        TypeError, ValueError: its data is not JSON-serializable.
    """
    is_json = isinstance(message.data, (dict, list))
    return Message(
        name=message.name,
        data=dump(message.data).decode() if is_json else message.data,
        encoding="json" if is_json else "",
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
        # a refusal, even if a retry might succeed (429): it was not published
        return ChannelRefused(int(error.code or 0), f"publishing: {describe(error)}")
    return channel_error(error, "publishing")
