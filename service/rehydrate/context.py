"""Context: the adapters and limits that every use case receives in addition to its arguments.

Its clock is Ably's (`ServerClock`), and its channel names are those in the rows, or the template's
(`ChannelNames`). Serials, timestamps and retention follow Ably's clock, so times that are compared
with them must be Ably's too. The server is asked for its time every few minutes; in between, a
monotonic clock carries the last answer forward.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from rehydrate.background import Backoff, PeriodicTask
from rehydrate.errors import ChannelUnavailable
from rehydrate.limits import BoundedCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from rehydrate.ports import ChannelLog, Publisher, Store


class PublishOptions(NamedTuple):
    """How responses are published.

    Attributes:
        client_id: the clientId that messages are published with; None: the connection's own.
        lease_s: a publisher that has not renewed its lease for this long, in seconds, is treated
            as dead.
    """

    client_id: str | None = None
    lease_s: float = 15.0


class Prefetch(NamedTuple):
    """A guess, from an earlier answer, of the history that the next one needs.

    Attributes:
        channel: the channel of the conversation.
        since_ms: the time that the earlier read began at, ms since 1970.
        attach_point: read history up to this channelSerial; None: to its end.
    """

    channel: str
    since_ms: int
    attach_point: str | None = None


class WakeQueue:
    """Names that wait for a periodic task, each once; the task takes all of them in its next turn.

    Nothing waits while no task is open, or beyond *capacity*.

    Attributes:
        task: the task, once there is one.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self.task: PeriodicTask | None = None
        self._capacity = capacity
        self._waiting: dict[str, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        """Whether further names are dropped."""
        return len(self._waiting) >= self._capacity

    def add(self, name: str) -> None:
        """Queue *name* and wake the task; return at once."""
        if self.task is not None and self.task.is_open and not self.full:
            self._waiting[name] = None
            self.task.wake()

    def put_back(self, names: Iterable[str]) -> None:
        """Queue *names* that were taken, even beyond the capacity; the task is not woken."""
        self._waiting.update(dict.fromkeys(names))

    def take(self, most: int | None = None) -> list[str]:
        """Remove up to *most* names (None: all), return them in the order they were queued."""
        taken = list(islice(self._waiting, most))
        for name in taken:
            del self._waiting[name]
        return taken


@dataclass(frozen=True, slots=True)
class Context:
    """The adapters and limits of one process, built once and passed to every use case.

    Nothing in it depends on a request, so one instance serves all of them. A test that needs
    another clock, or a store with a fault in it, makes a copy by `dataclasses.replace`.

    Attributes:
        store: where conversations, leases and replays are stored.
        channel: the channel service: history, live messages, publishing.
        publish_queue: the queue that all publishing goes through, in order per channel.
        now_ms: the clock, in ms since 1970.
        retention_ms: how long the channel keeps history, in ms.
        agents: the clientIds that may publish responses; empty: any.
        token_names: further names of channel messages that mean ``token``.
        publish_options: how responses are published.
        channel_of: return the name of a conversation's channel: its row's, else
            `default_channel`. May query the store.
        default_channel: return the channel name that the template gives a conversation without
            a row. A use case that reads the row anyway falls back on this one.
        prefetches: the history that the next hydrate is likely to need, by conversation.
        followed: of each conversation that is followed here, what returns its received messages
            as a `rehydrate.hydrate.history_window.HistorySource` that reaches a position; None if
            they do not reach it.
        edited_ms: the time of the oldest edited message of each channel with edits, in ms since
            1970, until the recorder has read these messages again.
        unrecorded: the conversations whose channel is known to have more than the store.
    """

    store: Store
    channel: ChannelLog
    publish_queue: Publisher
    now_ms: Callable[[], int]
    retention_ms: int
    agents: frozenset[str]
    publish_options: PublishOptions
    channel_of: Callable[[str], Awaitable[str]]
    default_channel: Callable[[str], str]
    prefetches: BoundedCache[str, Prefetch] = field(
        default_factory=lambda: BoundedCache(MAX_PREFETCHES)
    )
    token_names: frozenset[str] = frozenset()
    followed: dict[str, Callable[[str | None], Awaitable[Any]]] = field(default_factory=dict)
    edited_ms: BoundedCache[str, int] = field(default_factory=lambda: BoundedCache(MAX_PREFETCHES))
    unrecorded: WakeQueue = field(default_factory=WakeQueue)

    def note_edit(self, channel: str, at_ms: int) -> None:
        """Make the next catch-up of *channel* begin at the messages of the time *at_ms*, or earlier."""
        self.edited_ms[channel] = min(at_ms, self.edited_ms.get(channel) or at_ms)


MAX_PREFETCHES = 10_000
MAX_KNOWN = 10_000

ABSENT_FOR_S = 1.0
"""How long a missing row is remembered. A page that opens a new chat needs the channel several times
within a second, for the access check and for the answer. A row that another process creates in the
meantime has the same channel, unless that process runs with another template."""


class ChannelNames:
    """Channel names by conversation, cached; simultaneous lookups of one share a query.

    A row's channel never changes, so it is cached without a time limit.

    Args:
        look: returns the channel in a conversation's row; None if it has no row.
        by_template: returns the channel of a conversation without a row.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[str | None]],
        by_template: Callable[[str], str],
    ) -> None:
        self._look = look
        self._by_template = by_template
        self._known = BoundedCache[str, str](MAX_KNOWN)
        self._absent_until_s = BoundedCache[str, float](MAX_KNOWN)
        self._looking: dict[str, asyncio.Task[str | None]] = {}

    async def of(self, conversation_id: str) -> str:
        """Return the channel of a conversation; raises what the query raises."""
        name = self._known.get(conversation_id)
        if name is None and not self._is_absent(conversation_id):
            name = await self._found(conversation_id)
        if name is None:
            return self._by_template(conversation_id)
        self._known[conversation_id] = name
        return name

    async def close(self) -> None:
        """Cancel the queries that are running."""
        looking = list(self._looking.values())
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)

    def _is_absent(self, conversation_id: str) -> bool:
        until_s = self._absent_until_s.get(conversation_id)
        return until_s is not None and asyncio.get_running_loop().time() < until_s

    async def _found(self, conversation_id: str) -> str | None:
        task = self._looking.get(conversation_id)
        if task is None:
            task = asyncio.create_task(self._look_for(conversation_id), name="naming a channel")
            self._looking[conversation_id] = task
            task.add_done_callback(lambda _: self._looking.pop(conversation_id, None))
        return await asyncio.shield(task)  # others may be waiting for the same query

    async def _look_for(self, conversation_id: str) -> str | None:
        name = await self._look(conversation_id)
        if name is None:
            until_s = asyncio.get_running_loop().time() + ABSENT_FOR_S
            self._absent_until_s[conversation_id] = until_s
        else:
            self._absent_until_s.pop(conversation_id)
        return name


_log = logging.getLogger("rehydrate.ably")

ASK_EVERY_S = 300.0
_FIRST_WAIT_S = 2.0
"""How long `open` waits for the server's time. Without an answer, history cannot be read either."""

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 2.0
_SKEW_WARNING_MS = 1_000
_SAMPLES = 3
_PRECISE_MS = 300
"""An answer that took longer is repeated, up to `_SAMPLES` times: the time may be so much behind."""


class ServerClock:
    """Estimate of Ably's time: never ahead of it, and behind by at most one request's duration.

    Args:
        ask: fetches Ably's time, ms since 1970.
        wall_ms: this machine's wall clock, ms since 1970; used until Ably has answered.
        steady_ms: a monotonic clock, ms, that also counts while the machine sleeps.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[float]],
        *,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        steady_ms: Callable[[], int] | None = None,
    ) -> None:
        self._ask = ask
        self._wall_ms = wall_ms
        self._steady_ms = steady_ms or _steady_ms
        self._offset_ms: int | None = None
        self._lock = asyncio.Lock()
        self.task = PeriodicTask("channel clock", self._refresh, every_s=ASK_EVERY_S)

    @property
    def known(self) -> bool:
        """True once Ably has answered with its time."""
        return self._offset_ms is not None

    def now_ms(self) -> int:
        """Return Ably's time, ms since 1970; this machine's time until Ably has answered."""
        if self._offset_ms is None:
            return self._wall_ms()
        return self._steady_ms() + self._offset_ms

    async def sync(self) -> None:
        """Return once Ably's time is known; immediate if it already is.

        Raises:
            ChannelUnavailable: Ably does not answer.
        """
        if self.known:
            return
        async with self._lock:
            if not self.known:
                await self._fetch()

    async def open(self) -> None:
        """Fetch the time, and keep refreshing it in the background."""
        if self.task.is_open:
            return
        try:
            async with asyncio.timeout(_FIRST_WAIT_S):
                await self.sync()
        except (ChannelUnavailable, TimeoutError):
            _log.warning(
                "Ably did not answer with its time; using this machine's clock until it does"
            )
        self.task.open()
        if not self.known:
            self.task.wake()

    async def close(self) -> None:
        """Stop refreshing."""
        await self.task.close()

    async def _refresh(self) -> None:
        backoff = Backoff(_FIRST_DELAY_S, _LONGEST_DELAY_S)
        while not self.known:  # until it is, history cannot be read: do not wait for the interval
            await asyncio.sleep(backoff.next_s())
            try:
                await self.sync()
            except ChannelUnavailable as error:
                _log.debug("fetching Ably's time: %s", error)
            else:
                return
        async with self._lock:
            await self._fetch()

    async def _fetch(self) -> None:
        closest_ms: int | None = None
        for _ in range(_SAMPLES):
            asked_ms = self._steady_ms()
            try:
                server_ms = await self._ask()
            except ChannelUnavailable:
                if closest_ms is None:
                    raise
                return
            answered_ms = self._steady_ms()
            if not self.known:
                self._warn_of_skew(self._wall_ms() - server_ms)
            # behind by the way of the answer, and never ahead: the greatest offset is the closest
            offset_ms = int(server_ms) - answered_ms
            closest_ms = offset_ms if closest_ms is None else max(closest_ms, offset_ms)
            self._offset_ms = closest_ms
            if answered_ms - asked_ms <= _PRECISE_MS:
                return

    def _warn_of_skew(self, skew_ms: float) -> None:
        if abs(skew_ms) > _SKEW_WARNING_MS:
            _log.warning("this machine's clock is %d ms ahead of Ably's", skew_ms)


def _steady_ms() -> int:
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(boot_clock) // 1_000_000
