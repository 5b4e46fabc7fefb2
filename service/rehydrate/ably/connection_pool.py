"""The connections that subscriptions share."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.ably.connection import Connection


_PACED_S = 10
"""How long a busy second counts."""


class AttachRate:
    """How many messages a second a line has carried in its busiest second lately."""

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_PACED_S)

    def note(self) -> None:
        """One more."""
        now = int(time.monotonic())
        if self._seconds and self._seconds[-1][0] == now:
            self._seconds[-1] = (now, self._seconds[-1][1] + 1)
        else:
            self._seconds.append((now, 1))

    @property
    def per_s(self) -> int:
        """Messages in the busiest second."""
        since = int(time.monotonic()) - _PACED_S
        return max((count for second, count in self._seconds if second >= since), default=0)


class PooledConnection:
    """A line, and the channels that are attached on it."""

    def __init__(self, line: Connection) -> None:
        self.line = line
        self.channels: set[str] = set()
        self.closing = False
        self.pace = AttachRate()


class Assignment:
    """A channel's stay on a line; it moves to another where the line has too much to carry."""

    def __init__(self, lines: ConnectionPool, channel: str) -> None:
        self._lines = lines
        self._channel = channel
        self._berth = lines.take(channel)

    @property
    def line(self) -> Connection:
        """Where it is."""
        return self._berth.line

    def heard(self) -> None:
        """A message came for it."""
        self._berth.pace.note()

    async def move(self, *, clean: bool) -> None:
        """Move to another line, unless it has this one for itself. *clean*: it is detached."""
        if len(self._berth.channels) > 1:
            berth, self._berth = self._berth, self._lines.take(self._channel, besides=self._berth)
            await self._lines.give_back(berth, self._channel, clean=clean)

    async def end(self, *, clean: bool) -> None:
        """Leave for good."""
        await self._lines.give_back(self._berth, self._channel, clean=clean)


class ConnectionPool:
    """As many lines as the attachments need.

    A connection attaches a channel once, with one set of parameters. So a second subscription to a
    channel, which may rewind from elsewhere, takes another line; and Ably limits the channels of a
    connection, and drops what is more than 50 messages a second: a line that carries half of that
    takes no further channels. The first line stays when it is empty, so that the next attach need
    not connect.

    Args:
        build: makes a line.
        channels_per_line: how many channels one connection may attach (Ably's limit is 200).
        messages_per_s: how many messages a second one connection may deliver.
    """

    def __init__(
        self, build: Callable[[], Connection], *, channels_per_line: int, messages_per_s: int = 50
    ) -> None:
        self._build = build
        self._channels_per_line = channels_per_line
        self._calm_per_s = messages_per_s / 2
        self._berths: list[PooledConnection] = []

    def __len__(self) -> int:
        return len(self._berths)

    def take(self, channel: str, *, besides: PooledConnection | None = None) -> PooledConnection:
        """A line on which *channel* can be attached, but not *besides*; to be given back."""
        for berth in self._berths:
            free = len(berth.channels) < self._channels_per_line and channel not in berth.channels
            calm = berth.pace.per_s < self._calm_per_s or not berth.channels
            if free and calm and not berth.closing and berth is not besides:
                break
        else:
            berth = PooledConnection(self._build())
            self._berths.append(berth)
        berth.channels.add(channel)
        return berth

    async def give_back(self, berth: PooledConnection, channel: str, *, clean: bool) -> None:
        """Return what `take` gave. Not *clean*: Ably may believe that it is still attached."""
        berth.channels.discard(channel)
        berth.closing = berth.closing or not clean
        if berth.channels or berth not in self._berths:
            return
        if berth.closing or berth is not self._berths[0]:
            self._berths.remove(berth)
            await berth.line.close()

    async def close(self) -> None:
        """Close every line."""
        berths, self._berths = self._berths, []
        for berth in berths:
            berth.closing = True
            await berth.line.close()
