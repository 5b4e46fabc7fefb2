"""The connections that are published over, each with its publisher."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

from rehydrate.errors import ChannelUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rehydrate.ably.connection import Connection
    from rehydrate.ably.publisher import ChannelSender
    from rehydrate.ports import Outgoing

_LOOK_EVERY_S = 30.0


class ConnectionSlot(NamedTuple):
    """A connection, and who publishes over it."""

    connection: Connection
    publisher: ChannelSender


class ConnectionSlots:
    """Lanes by number. Each is made when it is first used; all but lane 0 end when nothing uses them.

    Args:
        build: makes a lane.
        look_every_s: how often to look which are unused; those that were so since the last time
            are closed.
    """

    def __init__(
        self, build: Callable[[], ConnectionSlot], *, look_every_s: float = _LOOK_EVERY_S
    ) -> None:
        self._build = build
        self._look_every_s = look_every_s
        self._lanes: dict[int, ConnectionSlot] = {}
        self._used: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._lanes)

    def publish(
        self, number: int, channel: str, messages: Sequence[Outgoing]
    ) -> asyncio.Future[Sequence[str | None]]:
        """Send over the lane *number*; see `rehydrate.ports.ChannelLog.publish`."""
        loop = asyncio.get_running_loop()
        if self._closed:
            refused: asyncio.Future[Sequence[str | None]] = loop.create_future()
            refused.set_exception(ChannelUnavailable("the channel is closed"))
            return refused
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = self._build()
        if number:
            self._used.add(number)
            if self._timer is None:
                self._timer = loop.call_later(self._look_every_s, self._look)
        return lane.publisher.publish(channel, messages)

    async def close(self, grace_s: float) -> None:
        """Wait up to *grace_s* seconds for what is on its way, then close every connection."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(lane.publisher.close(grace_s) for lane in self._lanes.values()))
        await asyncio.gather(*(lane.connection.close() for lane in self._lanes.values()))
        await asyncio.gather(*self._ending)

    def _look(self) -> None:
        for number, lane in list(self._lanes.items()):
            if number and number not in self._used and lane.publisher.idle:
                del self._lanes[number]
                ending = asyncio.create_task(_end(lane), name="rehydrate lane closing")
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
        self._used.clear()
        left = bool(self._lanes.keys() - {0})
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._look_every_s, self._look) if left else None


async def _end(lane: ConnectionSlot) -> None:
    await lane.publisher.close(0)
    await lane.connection.close()
