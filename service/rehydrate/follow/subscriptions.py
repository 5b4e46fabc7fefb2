"""Follow: a snapshot, then live events, each once; one attachment for all followers in a process.

Attach and buffer, then read the database, then the channel's history where the rewind of the attach
does not reach far enough. Whenever messages may have been missed, or a live message does not fit,
the conversation is read again and every follower gets a new snapshot.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from rehydrate.core.positions import check_conversation_id
from rehydrate.errors import BadParameter
from rehydrate.follow.feed import Feed
from rehydrate.follow.recent_messages import from_recent
from rehydrate.hydrate.history_window import HistorySource
from rehydrate.hydrate.hydrate import MAX_LIMIT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from rehydrate.context import Context
    from rehydrate.follow.event_buffer import FollowEvent
    from rehydrate.follow.feed import FollowOptions

_log = logging.getLogger(__name__)


class Follower:
    """One follower: an async iterator of events that starts with a snapshot.

    Each event comes once and in order. A follower that falls far behind does not delay the others:
    it gets a new snapshot instead of the events that it missed. Use it from one task at a time.
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
        self._cursor = feed.resume_from(after) if after is not None else None
        self._since = self._cursor or 0
        self._pending: list[FollowEvent] = []
        self._waiter: asyncio.Future[None] | None = None
        self._listener: Callable[[], None] | None = None
        self.closed = False
        feed.listeners[self.nudge] = None

    async def ready(self) -> None:
        """Return once there is a snapshot, or at once if the follower resumed.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelRefused: Ably refuses the attach.
        """
        while self._cursor is None and self._is_running:
            if self._feed.conversation is not None:
                return
            await self._wait()

    async def batch(self, timeout_s: float | None = None) -> list[FollowEvent]:
        """Return the events since the last call, as soon as there is one.

        Args:
            timeout_s: seconds to wait; None waits without a limit.

        Returns:
            The events; an empty list after *timeout_s* or once the follower has ended.

        Raises:
            StoreUnavailable: Postgres does not answer.
            ChannelRefused: Ably refuses the attach.
        """
        while self._is_running:
            events = self._read()
            if events:
                return events
            if not await self._wait(timeout_s):
                break
        return []

    def poll(self) -> list[FollowEvent]:
        """Return the events since the last call without waiting; raises as `batch` does."""
        return self._read() if self._is_running else []

    def listen(self, listener: Callable[[], None] | None) -> None:
        """Call *listener* whenever there may be events to poll, or the follower has ended."""
        self._listener = listener

    def nudge(self) -> None:
        """Wake the waiting task and the listener, so that they poll."""
        waiter, listener = self._waiter, self._listener
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if listener is not None:
            listener()

    def close(self) -> None:
        """End the follower; a task that waits for it returns."""
        self.closed = True
        self._feed.listeners.pop(self.nudge, None)
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
        """Wait until there may be events; return False after *timeout_s*."""
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
        """Whether no further event will come."""
        return self.closed or self._feed.closed

    @property
    def _is_running(self) -> bool:
        if self._feed.error is not None and not self.closed:
            raise self._feed.error
        return not self.ended

    def _read(self) -> list[FollowEvent]:
        buffer = self._feed.buffer
        if self._cursor is None or self._cursor < buffer.first:
            snapshot = self._feed.snapshot(self._limit)
            if snapshot is None:
                return []
            self._cursor = self._since = snapshot.number
            return [snapshot]
        if self._cursor == buffer.number:
            return []
        events = buffer.since(self._cursor)
        self._cursor = buffer.number
        if any(each.replay_from is not None for each in events):
            # A replay is in no snapshot: a follower that joined after its start does not get it.
            events = [
                each for each in events if (each.replay_from or self._since + 1) > self._since
            ]
        return events


class PromptWatcher:
    """Waits for prompts that a follower receives.

    History may show a prompt later than the follower receives it, so each prompt allows several
    checks in short succession. Without prompts there is a check every few seconds, for prompts
    that were stored without the channel.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower
        self._checks_left = 0

    async def wait(self) -> bool:
        """Return True when there may be prompts; False once the follower has ended."""
        timeout_s = _RECHECK_S if self._checks_left else _POLL_S
        self._checks_left = max(0, self._checks_left - 1)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while not self._follower.ended and (left_s := until_s - loop.time()) > 0:
            for event in await self._follower.batch(left_s):
                if event.kind in ("prompt", "snapshot"):
                    self._checks_left = _RECHECKS
                    return True
        return not self._follower.ended


_RECHECK_S = 0.25
_RECHECKS = 10
_POLL_S = 5.0


class Subscriptions:
    """The followed conversations of this process.

    Args:
        ctx: the adapters and limits.
        terms: how to follow.
        noticed: called with a conversation id when a message in it has started or ended.
    """

    def __init__(
        self,
        ctx: Context,
        *,
        terms: FollowOptions,
        noticed: Callable[[str], None],
    ) -> None:
        self._ctx = ctx
        self._terms = terms
        self._noticed = noticed
        self._feeds: dict[str, Feed] = {}
        self._grace_timers: dict[Feed, asyncio.TimerHandle] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._closed_counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._feeds)

    @asynccontextmanager
    async def joined(
        self, conversation_id: str, *, limit: int = 50, after: str | None = None
    ) -> AsyncIterator[Follower]:
        """Follow a conversation for as long as the block runs.

        Args:
            conversation_id: the conversation.
            limit: how many finished messages a snapshot has, the newest.
            after: the id of the last event received, to resume after it; where that is not
                possible, a snapshot comes first.

        Raises:
            BadParameter: *conversation_id* or *limit* is outside its syntax or range.
        """
        check_conversation_id(conversation_id)
        if not 1 <= limit <= MAX_LIMIT:
            raise BadParameter("limit", f"limit must be an integer from 1 to {MAX_LIMIT}")
        feed = self._feed(conversation_id)
        feed.followers += 1
        follower = Follower(feed, limit, after)
        try:
            yield follower
        finally:
            follower.close()
            feed.followers -= 1
            if not feed.followers:
                self._close_after_grace(feed)

    @asynccontextmanager
    async def cancels(self, conversation_id: str, response_id: str) -> AsyncIterator[asyncio.Event]:
        """Return an event that is set when a ``cancel`` for the response arrives on the channel.

        It is observed while the block runs, provided that Ably allows the attach.
        """
        async with self.joined(conversation_id, limit=1):
            feed = self._feeds[conversation_id]
            requested = feed.cancels[response_id] = asyncio.Event()
            try:
                yield requested
            finally:
                del feed.cancels[response_id]

    async def history_source(self, conversation_id: str, until: str | None) -> HistorySource | None:
        """Return a reader of the messages received here; None where those are not up to date.

        They are up to date if a message at or beyond *until* was delivered; without *until*, if the
        connection has answered within the last 2 s.
        """
        feed = self._feeds.get(conversation_id)
        if feed is None or not await feed.is_up_to_date(until):
            return None
        return HistorySource(partial(from_recent, recent=feed.recent))

    @property
    def counts(self) -> Counter[str]:
        """The number of delivered messages by outcome, of all conversations ever followed here."""
        counts = self._closed_counts.copy()
        for feed in self._feeds.values():
            counts.update(feed.counts)
        return counts

    @property
    def conversation_ids(self) -> list[str]:
        """The conversations that are attached."""
        return list(self._feeds)

    def changed(self, conversation_id: str) -> None:
        """Read a conversation again after the store was changed without the channel."""
        feed = self._feeds.get(conversation_id)
        if feed is not None:
            feed.read_again()

    def read_quiet(self, since_ms: int) -> None:
        """Read again the conversations with an open response and no message since *since_ms*.

        Such a response may have been ended in the store.
        """
        for feed in self._feeds.values():
            feed.read_if_quiet(since_ms)

    async def close(self) -> None:
        """Detach from every conversation; their followers end."""
        for feed in list(self._feeds.values()):
            self._close_feed(feed)
        await asyncio.gather(*self._closing)

    def _feed(self, conversation_id: str) -> Feed:
        feed = self._feeds.get(conversation_id)
        if feed is not None and feed.error is not None:
            self._close_feed(feed)
            feed = None
        if feed is None:
            feed = self._feeds[conversation_id] = Feed(
                self._ctx,
                conversation_id,
                terms=self._terms,
                noticed=self._noticed,
            )
            self._ctx.followed[conversation_id] = partial(self.history_source, conversation_id)
            feed.open()
        if (timer := self._grace_timers.pop(feed, None)) is not None:
            timer.cancel()
        return feed

    def _close_after_grace(self, feed: Feed) -> None:
        if self._feeds.get(feed.conversation_id) is not feed:
            return
        feed.buffer.drop_snapshots()
        loop = asyncio.get_running_loop()
        self._grace_timers[feed] = loop.call_later(self._terms.grace_s, self._close_feed, feed)

    def _close_feed(self, feed: Feed) -> None:
        if (timer := self._grace_timers.pop(feed, None)) is not None:
            timer.cancel()
        if self._feeds.get(feed.conversation_id) is feed:
            del self._feeds[feed.conversation_id]
            del self._ctx.followed[feed.conversation_id]
            self._closed_counts.update(feed.counts)
        closing = asyncio.create_task(feed.close(), name="closing a feed")
        self._closing.add(closing)
        closing.add_done_callback(self._on_closed)

    def _on_closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled() and (error := closing.exception()) is not None:
            _log.error("closing a feed failed", exc_info=error)
