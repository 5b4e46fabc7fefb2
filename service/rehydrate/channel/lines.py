"""The connections that subscriptions share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from rehydrate.channel.line import Line


class Berth:
    """A channel's place on a line."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.channels: set[str] = set()
        self.closing = False


class Lines:
    """As many lines as the attachments need.

    A connection attaches a channel once, with one set of parameters. So a second subscription to a
    channel, which may rewind from elsewhere, takes another line; and Ably limits the channels of a
    connection. The first line stays when it is empty, so that the next attach need not connect.

    Args:
        build: makes a line.
        channels_per_line: how many channels one connection may attach (Ably's limit is 200).
    """

    def __init__(self, build: Callable[[], Line], *, channels_per_line: int) -> None:
        self._build = build
        self._channels_per_line = channels_per_line
        self._berths: list[Berth] = []

    def __len__(self) -> int:
        return len(self._berths)

    def take(self, channel: str) -> Berth:
        """A line on which *channel* can be attached; to be given back."""
        for berth in self._berths:
            free = len(berth.channels) < self._channels_per_line and channel not in berth.channels
            if free and not berth.closing:
                break
        else:
            berth = Berth(self._build())
            self._berths.append(berth)
        berth.channels.add(channel)
        return berth

    async def give_back(self, berth: Berth, channel: str, *, clean: bool) -> None:
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
