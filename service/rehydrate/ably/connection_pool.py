"""The realtime connections that subscriptions share."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.ably.connection import Connection


_RATE_WINDOW_S = 10
"""How long the busiest second counts."""


class DeliveryRate:
    """Messages a second that a connection delivered, in its busiest second of the last 10."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_RATE_WINDOW_S)

    def count(self) -> None:
        """Count one message."""
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            self._seconds[-1] = (now, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((now, 1))

    @property
    def per_s(self) -> int:
        """Messages in the busiest second."""
        since = int(time.monotonic()) - _RATE_WINDOW_S
        return max((count for second, count in self._seconds if second >= since), default=0)


class PooledConnection:
    """A connection and the channels attached on it."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.channels: set[str] = set()
        self.closing = False
        self.rate = DeliveryRate()


class Assignment:
    """The assignment of a channel to a pooled connection.

    It moves to another connection when the current one has to deliver too much.
    """

    def __init__(self, pool: ConnectionPool, channel: str) -> None:
        self._pool = pool
        self._channel = channel
        self._pooled = pool.acquire(channel)

    @property
    def connection(self) -> Connection:
        """The current connection."""
        return self._pooled.connection

    def count_message(self) -> None:
        """Count a message delivered on the channel."""
        self._pooled.rate.count()

    async def move(self, *, clean: bool) -> None:
        """Move to another connection if others share this one. *clean*: the channel is detached."""
        if len(self._pooled.channels) > 1:
            left = self._pooled
            self._pooled = self._pool.acquire(self._channel, other_than=left)
            await self._pool.release(left, self._channel, clean=clean)

    async def end(self, *, clean: bool) -> None:
        """Release the connection. *clean*: the channel is detached."""
        await self._pool.release(self._pooled, self._channel, clean=clean)


class ConnectionPool:
    """As many connections as the attached channels need.

    A connection attaches a channel once, with one set of parameters, so a second subscription to a
    channel, which may rewind differently, uses another connection. Ably limits the channels of a
    connection and drops deliveries above 50 messages a second; a connection that carries half of
    that accepts no further channels. The first connection stays open when it is unused, so that the
    next attach need not connect.

    Args:
        build: creates a connection.
        channels_per_connection: channels that one connection may attach (Ably's limit is 200).
        messages_per_s: messages a second that one connection may deliver.
    """

    def __init__(
        self,
        build: Callable[[], Connection],
        *,
        channels_per_connection: int,
        messages_per_s: int = 50,
    ) -> None:
        self._build = build
        self._channels_per_connection = channels_per_connection
        self._calm_per_s = messages_per_s / 2
        self._pooled: list[PooledConnection] = []

    def __len__(self) -> int:
        return len(self._pooled)

    def acquire(
        self, channel: str, *, other_than: PooledConnection | None = None
    ) -> PooledConnection:
        """Return a connection that can attach *channel*, not *other_than*; end with `release`."""
        for pooled in self._pooled:
            attached = pooled.channels
            free = len(attached) < self._channels_per_connection and channel not in attached
            calm = pooled.rate.per_s < self._calm_per_s or not attached
            if free and calm and not pooled.closing and pooled is not other_than:
                break
        else:
            pooled = PooledConnection(self._build())
            self._pooled.append(pooled)
        pooled.channels.add(channel)
        return pooled

    async def release(self, pooled: PooledConnection, channel: str, *, clean: bool) -> None:
        """Undo `acquire`. Not *clean*: Ably may still consider the channel attached."""
        pooled.channels.discard(channel)
        pooled.closing = pooled.closing or not clean
        if pooled.channels or pooled not in self._pooled:
            return
        if pooled.closing or pooled is not self._pooled[0]:
            self._pooled.remove(pooled)
            await pooled.connection.close()

    async def close(self) -> None:
        """Close every connection."""
        closing, self._pooled = self._pooled, []
        for pooled in closing:
            pooled.closing = True
            await pooled.connection.close()
