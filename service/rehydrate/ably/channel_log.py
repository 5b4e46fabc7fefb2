"""The channel of a conversation: Ably, through its stock SDK.

What the SDK does badly is worked around here, in the room's other files; each place names the gap:
  1 its WebSocket leaves the port out                 endpoint
  2 a key is refused over http, and sent over ws      credentials
  3 the attach point is private                       subscribing
  4 plain requests do not renew a token               requests
  7 rewind is set before the attach, never after      subscribing
  8 after SUSPENDED it does not know where it was     subscribing
  9 a dead connection is said to be alive             line
 10 a refused connection is not noticed               dialling
 11 it may send twice after a lost connection         publishing
 12 "error" breaks listeners; async ones overtake     subscribing
 13 releasing does not detach; reasons are lost       subscribing, proofs
 16 time limits are per phase; errors come raw        requests
 17 its size limit is not Ably's                      here
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from ably import AblyRealtime

from rehydrate.ably import history
from rehydrate.ably import token_check as proofs
from rehydrate.ably.clock import ServerClock
from rehydrate.ably.connection import Connection
from rehydrate.ably.connection_pool import Assignment, ConnectionPool
from rehydrate.ably.connection_slots import ConnectionSlot, ConnectionSlots
from rehydrate.ably.credentials import AblyKey, Credentials
from rehydrate.ably.endpoint import Endpoint
from rehydrate.ably.publisher import Publisher
from rehydrate.ably.requests import Requests
from rehydrate.ably.subscription import LiveSubscription

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence

    from rehydrate.core.event import ChannelMessage
    from rehydrate.ports import Outgoing

_RETRY_MS = (1_000, 2_000)
_SUSPENDED_RETRY_MS = 5_000
_CLOSING_S = 2.0
_LARGEST_PUBLISH_BYTES = 262_144 + 8_192
"""Of any account's limit and an envelope; Ably judges by the account's own (gap 17)."""


class AblyChannel:
    """The port `rehydrate.ports.ChannelLog`, over Ably.

    Nothing is connected before it is needed: who only reads history never opens a WebSocket.

    Args:
        key: ``appId.keyId:secret``.
        endpoint: a routing policy or host; None is Ably's own.
        port: where it is not the usual one.
        tls: whether to speak https and wss.
        client_id: who we are to others; None may be anybody, message by message.
        request_timeout_s: how long one request, attach or connection attempt may take.
        ack_timeout_s: how long a publish waits for its acknowledgement.
        unacknowledged: how many messages of a lane may wait for theirs.
        channels_per_connection: how many channels one connection attaches.
        messages_per_connection: how many messages a second Ably delivers to one.
        ping_every_s: how often connections are checked.

    Raises:
        NotConfigured: *key* is not written as a key is.
    """

    def __init__(
        self,
        key: str,
        *,
        endpoint: str | None = None,
        port: int | None = None,
        tls: bool = True,
        client_id: str | None = None,
        request_timeout_s: float = 5.0,
        ack_timeout_s: float = 10.0,
        unacknowledged: int = 10_000,
        channels_per_connection: int = 200,
        messages_per_connection: int = 50,
        ping_every_s: float = 5.0,
    ) -> None:
        self._endpoint = Endpoint(endpoint, port, tls)
        self._timeout_s = request_timeout_s
        self._ping_every_s = ping_every_s
        self._credentials = Credentials(AblyKey.parse(key), client_id, self._server_ms)
        self._requests = Requests(self._credentials, self._endpoint, request_timeout_s)
        self._clock = ServerClock(self._server_ms)
        self._unacknowledged = unacknowledged
        self._ack_timeout_s = ack_timeout_s
        self._lanes = ConnectionSlots(self._lane)
        self._lines = ConnectionPool(
            self._line,
            channels_per_line=channels_per_connection,
            messages_per_s=messages_per_connection,
        )
        _hush(logging.getLogger("ably"), logging.CRITICAL)
        _hush(logging.getLogger("websockets.client"), logging.INFO)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Ask for the time; nothing else is connected yet."""
        await self._clock.open()

    async def close(self) -> None:
        """Wait up to 2 s for what is on its way, then close everything, for good."""
        await self._clock.close()
        await self._lanes.close(_CLOSING_S)
        await self._lines.close()
        await self._requests.close()

    def now_ms(self) -> int:
        """See the port."""
        return self._clock.now_ms()

    async def know_time(self) -> None:
        """See the port."""
        await self._clock.learn()

    def history(
        self,
        channel: str,
        *,
        since_ms: int | None = None,
        until: str | None = None,
        forwards: bool = False,
        limit: int = 1000,
    ) -> AsyncGenerator[list[ChannelMessage]]:
        """See the port. Without *until* granted, or forwards, pages reach to the newest message."""
        return history.pages(
            self._requests,
            channel,
            since_ms=since_ms,
            until=until,
            forwards=forwards,
            limit=limit,
        )

    def publish(
        self, channel: str, messages: Sequence[Outgoing], *, lane: int = 0
    ) -> Awaitable[Sequence[str | None]]:
        """See the port. Several messages at once need ids ``base:0``, ``base:1`` … (40031)."""
        return self._lanes.publish(lane, channel, messages)

    @asynccontextmanager
    async def subscribe(
        self, channel: str, *, rewind: str | None = None, capacity: int = 10_000
    ) -> AsyncIterator[LiveSubscription]:
        """See the port. Raises `ChannelUnavailable` or `ChannelRefused` if it cannot attach.

        After a `Discontinuity` the channel is attached anew, so its messages overlap by *rewind*.
        """
        stay = Assignment(self._lines, channel)
        subscription = LiveSubscription(
            stay, channel, rewind=rewind, capacity=capacity, timeout_s=self._timeout_s
        )
        clean = False
        try:
            await subscription.open()
            yield subscription
        finally:
            try:
                clean = await subscription.close()
            finally:
                await stay.end(clean=clean)

    async def admits(self, token: str, channel: str) -> bool:
        """See the port. Asks Ably each time."""
        return await proofs.admits(
            token,
            channel,
            requests=self._requests,
            endpoint=self._endpoint,
            timeout_s=self._timeout_s,
        )

    async def key_capability(self, key: str) -> dict[str, list[str]]:
        """See the port. Asks Ably each time."""
        return await proofs.key_capability(key, endpoint=self._endpoint, timeout_s=self._timeout_s)

    async def ready(self) -> None:
        """See the port."""
        await self._requests.time_ms()

    async def _server_ms(self) -> float:
        return await self._requests.time_ms()

    def _lane(self) -> ConnectionSlot:
        line = self._line()
        publisher = Publisher(
            line, capacity=self._unacknowledged, ack_timeout_s=self._ack_timeout_s
        )
        return ConnectionSlot(line, publisher)

    def _line(self) -> Connection:
        return Connection(
            self._realtime,
            self._credentials.doubt,
            timeout_s=self._timeout_s,
            ping_every_s=self._ping_every_s,
        )

    def _realtime(self) -> AblyRealtime:
        client = AblyRealtime(
            auth_callback=self._credentials.details,
            auto_connect=False,
            queue_messages=False,
            realtime_request_timeout=self._timeout_s * 1000,
            # its retries have no jitter of their own
            disconnected_retry_timeout=random.uniform(*_RETRY_MS),  # noqa: S311 - spreads load
            suspended_retry_timeout=_SUSPENDED_RETRY_MS,
            channel_retry_timeout=_SUSPENDED_RETRY_MS,
            **self._endpoint.realtime_options(),
        )
        # read with getattr by the SDK, and not an argument of its options
        client.options.max_message_size = _LARGEST_PUBLISH_BYTES
        return client


def _hush(logger: logging.Logger, level: int) -> None:
    """Keep what has tokens and texts out of the log, unless the application asked for it."""
    if logger.level == logging.NOTSET:
        logger.setLevel(level)
