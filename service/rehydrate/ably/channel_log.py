"""The `ChannelLog` port over Ably, through its stock SDK.

The modules of this package work around the SDK's shortcomings; each workaround names its gap:
  1 the WebSocket ignores the port option                    endpoint
  2 keys are refused over http and sent in clear over ws     rest
  3 the attach point is private                              subscription
  4 plain requests do not renew a token                      rest
  7 rewind must be set before the attach                     subscription
  8 the position is lost after SUSPENDED                     subscription
  9 a dead connection is reported as connected               connection
 10 a refused TCP connection is not noticed                  connecting
 11 a publish may be sent twice after a lost connection      sender
 12 messages named "error" break listeners; async listeners
    overtake each other; one bad message loses its frame     subscription, sdk_fixes
 13 a release does not detach; reasons are lost              subscription, token_check
 16 time limits are per phase; errors are not wrapped        rest
 17 the SDK's size limit is not Ably's                       channel_log
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import Self

from ably import AblyRealtime

from rehydrate.ably import token_check
from rehydrate.ably.connection import Connection
from rehydrate.ably.connection_pool import Assignment, ConnectionPool
from rehydrate.ably.connection_slots import UNACKNOWLEDGED, ConnectionSlots
from rehydrate.ably.endpoint import Endpoint
from rehydrate.ably.rest import AblyKey, Credentials, Requests
from rehydrate.ably.sender import Sender
from rehydrate.ably.subscription import LiveSubscription
from rehydrate.background import jittered
from rehydrate.context import ServerClock
from rehydrate.ports import Batch

_RETRY_MS = 1_500
_SUSPENDED_RETRY_MS = 5_000
_CLOSING_S = 2.0
_LARGEST_PUBLISH_BYTES = 262_144 + 8_192
"""Above the limit of any account, with an envelope; Ably enforces the account's own (gap 17)."""


class AblyChannel:
    """The port `rehydrate.ports.ChannelLog`, over Ably.

    Connections are opened on first use: reading history never opens a WebSocket.

    Args:
        key: ``appId.keyId:secret``.
        endpoint: a routing policy or host; None for Ably's default.
        port: the port, if not the default.
        tls: whether to use https and wss.
        client_id: the clientId of the service; None allows any clientId per message.
        request_timeout_s: time limit for one request, attach or connection attempt.
        ack_timeout_s: how long a publish waits for its acknowledgement.
        publish_rate: publishes a second, on a channel and on a connection; 0: no limit.
        unacknowledged: how many messages of a connection may be without acknowledgement.
        publishes_in_flight: how many publishes of a channel may be without acknowledgement.
        channels_per_connection: how many channels one connection attaches.
        messages_per_connection: how many messages a second Ably delivers to one connection.
        ping_every_s: interval between pings of a connection.

    Attributes:
        clock: Ably's time.
        history: see the port.

    Raises:
        NotConfigured: *key* has an invalid syntax.
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
        publish_rate: float = 0.0,
        unacknowledged: int = 10_000,
        publishes_in_flight: int = UNACKNOWLEDGED,
        channels_per_connection: int = 200,
        messages_per_connection: int = 50,
        ping_every_s: float = 5.0,
    ) -> None:
        self._endpoint = Endpoint(endpoint, port, tls)
        self._timeout_s = request_timeout_s
        self._ping_every_s = ping_every_s
        self._credentials = Credentials(AblyKey.parse(key), client_id, self._server_ms)
        self.clock = ServerClock(self._server_ms)
        self._ack_timeout_s = ack_timeout_s
        self._make_slots = partial(
            ConnectionSlots,
            self._sender,
            rate_per_s=publish_rate,
            capacity=unacknowledged,
            unacknowledged=publishes_in_flight,
        )
        self._renew()
        self._pool = ConnectionPool(
            self._connection,
            channels_per_connection=channels_per_connection,
            messages_per_s=messages_per_connection,
        )
        _quiet(logging.getLogger("ably"), logging.CRITICAL)
        _quiet(logging.getLogger("websockets.client"), logging.INFO)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Fetch Ably's time. Connections are opened later, on first use."""
        if self._closed:
            self._renew()
        await self.clock.open()

    async def close(self) -> None:
        """Wait up to 2 s for outstanding acknowledgements, then close all connections.

        What is published or read after that is refused, until `open` is called again.
        """
        self._closed = True
        await self.clock.close()
        await self._slots.close(_CLOSING_S)
        await self._pool.close()
        await self._requests.close()

    def now_ms(self) -> int:
        """See the port."""
        return self.clock.now_ms()

    async def sync_clock(self) -> None:
        """See the port."""
        await self.clock.sync()

    def publish(self, channel: str, batch: Batch) -> asyncio.Future[Sequence[str | None]]:
        """See the port. Several messages at once need ids ``base:0``, ``base:1`` … (40031)."""
        return self._slots.publish(channel, batch)

    def reserve(self, channel: str, *, steady_per_s: float = 0.0) -> AbstractContextManager[None]:
        """See the port."""
        return self._slots.reserve(channel, steady_per_s=steady_per_s)

    @asynccontextmanager
    async def subscribe(
        self, channel: str, *, rewind: str | None = None, capacity: int = 10_000
    ) -> AsyncIterator[LiveSubscription]:
        """See the port. Raises `ChannelUnavailable` or `ChannelRefused` if it cannot attach.

        After a `Discontinuity` the channel is attached again: messages then overlap by *rewind*.
        """
        assignment = Assignment(self._pool, channel)
        subscription = LiveSubscription(
            assignment,
            channel,
            now_ms=self.now_ms,
            rewind=rewind,
            capacity=capacity,
            timeout_s=self._timeout_s,
        )
        clean = False
        try:
            await subscription.open()
            yield subscription
        finally:
            try:
                clean = await subscription.close()
            finally:
                await assignment.end(clean=clean)

    async def admits(self, token: str, channel: str) -> bool:
        """See the port. Not cached."""
        return await token_check.admits(
            token,
            channel,
            requests=self._requests,
            endpoint=self._endpoint,
            timeout_s=self._timeout_s,
        )

    async def key_capability(self, key: str) -> dict[str, list[str]]:
        """See the port. Not cached."""
        return await token_check.key_capability(
            key, endpoint=self._endpoint, timeout_s=self._timeout_s
        )

    async def ready(self) -> None:
        """See the port."""
        await self._requests.time_ms()

    @property
    def silent_s(self) -> float:
        """For how long REST requests have been without an answer, in seconds; 0 if they have one."""
        return self._requests.silent_s

    async def _server_ms(self) -> float:
        return await self._requests.time_ms()

    def _renew(self) -> None:
        """Create what refuses everything once it is closed."""
        self._closed = False
        self._requests = Requests(self._credentials, self._endpoint, self._timeout_s)
        self.history = self._requests.history
        self._slots = self._make_slots()

    def _sender(self) -> Sender:
        return Sender(self._connection(), ack_timeout_s=self._ack_timeout_s)

    def _connection(self) -> Connection:
        return Connection(
            self._realtime,
            self._credentials.invalidate_token,
            timeout_s=self._timeout_s,
            ping_every_s=self._ping_every_s,
        )

    def _realtime(self) -> AblyRealtime:
        client = AblyRealtime(
            auth_callback=self._credentials.details,
            auto_connect=False,
            queue_messages=False,
            realtime_request_timeout=self._timeout_s * 1000,
            # the SDK's retries have no jitter
            disconnected_retry_timeout=jittered(_RETRY_MS, 1 / 3),
            suspended_retry_timeout=_SUSPENDED_RETRY_MS,
            channel_retry_timeout=_SUSPENDED_RETRY_MS,
            **self._endpoint.realtime_options(),
        )
        # the SDK reads this with getattr; its options do not accept it as an argument
        client.options.max_message_size = _LARGEST_PUBLISH_BYTES
        return client


def _quiet(logger: logging.Logger, level: int) -> None:
    """Keep tokens and message text out of the log, unless the application has set a level."""
    if logger.level == logging.NOTSET:
        logger.setLevel(level)
