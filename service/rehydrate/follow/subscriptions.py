"""Follow: a snapshot, then what is live, each once; one attachment for however many followers.

Attach and collect, then read the database, then the channel's history only where the attach has
not rewound far enough. Whenever messages may have been missed, or one comes that does not fit, all
of it is read again, and everybody gets a new snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

from rehydrate.core.positions import check_conversation_id
from rehydrate.errors import BadParameter
from rehydrate.follow.feed import Feed
from rehydrate.follow.recent_messages import RecentHistory
from rehydrate.hydrate.hydrate import MAX_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.resync import FollowOptions
    from rehydrate.hydrate.history_window import HistoryReader
    from rehydrate.hydrate.hydrate import Rules
    from rehydrate.ports import ChannelLog, ResponseStore

_log = logging.getLogger(__name__)


class Follower:
    """One who follows: an async iterator of what it is told, a snapshot first.

    Each event comes once and in order. A follower that falls far behind is not waited for: it gets
    a new snapshot instead of what it missed. It is for one task at a time.
    """

    __slots__ = (
        "_cursor",
        "_feed",
        "_limit",
        "_listener",
        "_pending",
        "_since",
        "_waiter",
        "closed",
    )

    def __init__(self, feed: Feed, limit: int, after: str | None) -> None:
        self._feed = feed
        self._limit = limit
        self._cursor = feed.place_of(after) if after is not None else None
        self._since = self._cursor or 0
        self._pending: list[FollowEvent] = []
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self.closed = False
        feed.watchers[self.nudge] = None

    async def ready(self) -> None:
        """Return once there is something to tell, or to go on from.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelRefused: Ably does not let us attach.
        """
        while self._cursor is None and self._goes_on:
            if self._feed.standing is not None:
                return
            await self._wait()

    async def batch(self, timeout_s: float | None = None) -> list[FollowEvent]:
        """What is told since the last time, as soon as there is something.

        Nothing after *timeout_s*, or once it is closed. Raises as `ready` does.
        """
        while self._goes_on:
            told = self._take()
            if told:
                return told
            if not await self._wait(timeout_s):
                break
        return []

    def take(self) -> list[FollowEvent]:
        """What is told since the last time, without waiting; raises as `ready` does."""
        return self._take() if self._goes_on else []

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call *listener* whenever there may be something to take, or it has ended."""
        self._listener = listener

    def nudge(self) -> None:
        """Let whoever waits, or listens, look."""
        waiter, listener = self._waiter, self._listener
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if listener is not None:
            listener()

    def close(self) -> None:
        """Tell it nothing more; whoever waits for it returns."""
        self.closed = True
        self._feed.watchers.pop(self.nudge, None)
        self.nudge()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> FollowEvent:
        if not self._pending:
            self._pending = (await self.batch())[::-1]
            if not self._pending:
                raise StopAsyncIteration
        return self._pending.pop()

    async def _wait(self, timeout_s: float | None = None) -> bool:
        """Wait until there may be something to take; False after *timeout_s*."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
        except TimeoutError:
            return False
        finally:
            self._waiter = None
        return True

    @property
    def ended(self) -> bool:
        """Whether nothing more will be told."""
        return self.closed or self._feed.closed

    @property
    def _goes_on(self) -> bool:
        if self._feed.error is not None and not self.closed:
            raise self._feed.error
        return not self.ended

    def _take(self) -> list[FollowEvent]:
        telling = self._feed.telling
        if self._cursor is None or self._cursor < telling.first:
            snapshot = self._feed.snapshot(self._limit)
            if snapshot is None:
                return []
            self._cursor = self._since = snapshot.number
            return [snapshot]
        if self._cursor == telling.number:
            return []
        told = telling.since(self._cursor)
        self._cursor = telling.number
        if any(each.replay_from is not None for each in told):
            told = [each for each in told if (each.replay_from or self._since + 1) > self._since]
        return told


class PromptWatcher:
    """Waits for prompts, as a follower hears of them.

    History may show one later than the follower hears of it, so after each there is more than one
    look; and now and then there is one in any case, for what was stored without the channel.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._looks = 0

    async def wait(self) -> bool:
        """Return when there may be prompts; False: there never will be."""
        patience_s = _SOON_S if self._looks else _NOW_AND_THEN_S
        self._looks = max(0, self._looks - 1)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + patience_s
        while not self._follower.ended and (left_s := until_s - loop.time()) > 0:
            for event in await self._follower.batch(left_s):
                if event.kind in ("prompt", "snapshot"):
                    self._looks = _LOOKS
                    return True
        return not self._follower.ended


_SOON_S = 0.25
_LOOKS = 10
_NOW_AND_THEN_S = 5.0


class Subscriptions:
    """The followed conversations of this process.

    Args:
        store: where responses are stored.
        channel: what is attached to.
        rules: the surroundings.
        terms: how to follow.
        channel_of: the channel of a conversation.
        noticed: called with a conversation in which something has begun or ended.
        hint_ms: from when history was last known to be needed for a conversation.
    """

    def __init__(
        self,
        *,
        store: ResponseStore,
        channel: ChannelLog,
        rules: Rules,
        terms: FollowOptions,
        channel_of: Callable[[str], Awaitable[str]],
        noticed: Callable[[str], None],
        hint_ms: Callable[[str], int | None],
    ) -> None:
        self._ports = (store, channel)
        self._rules = rules
        self._terms = terms
        self._channel_of = channel_of
        self._noticed = noticed
        self._hint_ms = hint_ms
        self._feeds: dict[str, Feed] = {}
        self._leaving: dict[Feed, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._counted: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._feeds)

    @asynccontextmanager
    async def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AsyncIterator[Follower]:
        """Follow a conversation for as long as the block runs.

        *limit*: finished messages of a snapshot, the newest. *after*: the id of the last event that
        was received, to go on behind it; if that cannot be, a snapshot comes first.

        Raises:
            BadParameter: *conversation_id* or *limit* is outside its syntax or range.
        """
        check_conversation_id(conversation_id)
        if not 1 <= limit <= MAX_LIMIT:
            raise BadParameter("limit", f"limit is a number from 1 to {MAX_LIMIT}")
        feed = self._feed(conversation_id)
        feed.followers += 1
        follower = Follower(feed, limit, after)
        try:
            yield follower
        finally:
            follower.close()
            feed.followers -= 1
            if not feed.followers:
                self._leave_later(feed)

    @asynccontextmanager
    async def cancels(self, conversation_id: str, response_id: str) -> AsyncIterator[asyncio.Event]:
        """What is set when somebody asks, on the channel, that the response be stopped.

        It is heard while the block runs, as long as Ably lets us attach.
        """
        async with self.joined(conversation_id, limit=1):
            feed = self._feeds[conversation_id]
            asked = feed.cancels[response_id] = asyncio.Event()
            try:
                yield asked
            finally:
                del feed.cancels[response_id]

    async def walk(self, conversation_id: str, until: str | None) -> HistoryReader | None:
        """A walk over what a follower here has heard, which is up to date; None: there is none.

        Up to date is what was delivered beyond *until*; without it, if the connection has answered
        within the last 2 s.
        """
        feed = self._feeds.get(conversation_id)
        if feed is None or not await feed.is_up_to_date(until):
            return None
        return RecentHistory(self._ports[1], self._rules.now_ms(), feed.recent)

    @property
    def counts(self) -> Counter[str]:
        """What became of the messages that were delivered, of all that is or was followed."""
        counts = self._counted.copy()
        for feed in self._feeds.values():
            counts.update(feed.counts)
        return counts

    @property
    def conversation_ids(self) -> list[str]:
        """Which conversations are kept."""
        return list(self._feeds)

    def changed(self, conversation_id: str) -> None:
        """The store was changed without the channel: read it again."""
        feed = self._feeds.get(conversation_id)
        if feed is not None:
            feed.read_again()

    def read_quiet(self, since_ms: int) -> None:
        """Read again what is open and quiet since *since_ms*: it may have been ended."""
        for feed in self._feeds.values():
            feed.read_if_quiet(since_ms)

    async def close(self) -> None:
        """Leave every conversation; their followers end."""
        for feed in list(self._feeds.values()):
            self._leave(feed)
        await asyncio.gather(*self._ending)

    def _feed(self, conversation_id: str) -> Feed:
        feed = self._feeds.get(conversation_id)
        if feed is not None and feed.error is not None:
            self._leave(feed)
            feed = None
        if feed is None:
            store, channel = self._ports
            feed = self._feeds[conversation_id] = Feed(
                conversation_id,
                store=store,
                channel=channel,
                rules=self._rules,
                terms=self._terms,
                channel_of=self._channel_of,
                noticed=self._noticed,
                hint_ms=self._hint_ms,
            )
            feed.open()
        if (timer := self._leaving.pop(feed, None)) is not None:
            timer.cancel()
        return feed

    def _leave_later(self, feed: Feed) -> None:
        if self._feeds.get(feed.conversation_id) is not feed:
            return
        feed.telling.forget_snapshots()
        loop = asyncio.get_running_loop()
        self._leaving[feed] = loop.call_later(self._terms.grace_s, self._leave, feed)

    def _leave(self, feed: Feed) -> None:
        if (timer := self._leaving.pop(feed, None)) is not None:
            timer.cancel()
        if self._feeds.get(feed.conversation_id) is feed:
            del self._feeds[feed.conversation_id]
            self._counted.update(feed.counts)
        ending = asyncio.create_task(feed.close(), name="leaving a conversation")
        self._ending.add(ending)
        ending.add_done_callback(self._ended)

    def _ended(self, ending: asyncio.Task[None]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            _log.error("leaving a conversation failed", exc_info=error)
