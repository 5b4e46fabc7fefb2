"""Both ports in memory, with a simulated clock: channels whose history lags and expires."""

from __future__ import annotations

import copy
from contextlib import asynccontextmanager
from typing import NamedTuple

from laws.rolling import changed_ms, rolled
from rehydrate.context import Context, PublishOptions
from rehydrate.core import wire
from rehydrate.core.event import ChannelMessage
from rehydrate.core.positions import insertion_position
from rehydrate.core.timeline import Lookup
from rehydrate.errors import Conflict
from rehydrate.ports import UNLIMITED_BYTES, Conversation, Finished, Lease, Stored


class Posted(NamedTuple):
    """A channel message, and its additional delay until REST history shows it."""

    message: ChannelMessage
    extra_lag_ms: int = 0


def memory_context(store, channel, now_ms, *, retention_ms=120_000, options=PublishOptions()):  # noqa: B008 - frozen
    """Return a context with one conversation, ``c``, whose channel is ``ai:c``."""

    async def channel_of(_):
        return "ai:c"

    return Context(
        store=store,
        channel=channel,
        publish_queue=None,
        now_ms=now_ms,
        retention_ms=retention_ms,
        agents=frozenset(),
        publish_options=options,
        channel_of=channel_of,
        default_channel=lambda _: "ai:c",
    )


class MemoryChannel:
    """History as REST shows it at ``now_ms``: messages within retention, and older than the lag."""

    def __init__(self, log, *, lag_ms=0, retention_ms=10**9, page=1000):
        self.log = list(log)
        self.now_ms = 0
        self.lag_ms = lag_ms
        self.retention_ms = retention_ms
        self.page = page

    def visible(self, *, since_ms=None):
        oldest_ms = max(since_ms or 0, self.now_ms - self.retention_ms)
        shown = [
            posted
            for posted in self.log
            if changed_ms(posted.message) + self.lag_ms + posted.extra_lag_ms <= self.now_ms
        ]
        messages = [posted.message for posted in rolled(shown)]
        return [message for message in messages if oldest_ms <= message.timestamp_ms]

    async def history(self, channel, *, since_ms=None, until=None, forwards=False, limit=1000):
        rows = self.visible(since_ms=since_ms)
        size = min(limit, self.page)
        for at in range(0, len(rows), size):
            yield rows[at : at + size]


class MemoryStore:
    """The store of one process: rows are copies, and finished messages pass through their wire form."""

    def __init__(self):
        self.conversation = None
        self.rows = {}
        self.leases = {}
        self.now_ms = 0

    def _read(self, state):
        return copy.deepcopy(state)

    async def load(self, conversation_id, *, limit, before, most_bytes=UNLIMITED_BYTES):
        ended = [s for s in self.rows.values() if s.status != "in_progress"]
        place = lambda s: (s.position, s.id)  # noqa: E731 - a key
        ended = sorted((s for s in ended if before is None or place(s) < before), key=place)
        page = []
        for state in reversed(ended[-limit:]):
            row = Finished(state.position, state.id, wire.encode(state))
            most_bytes -= len(row.wire)
            if page and most_bytes < 0:
                break
            page.insert(0, row)
        streaming = [self._read(s) for s in self.rows.values() if s.status == "in_progress"]
        more = len(ended) > len(page)
        return Stored(self.conversation, page, more, [] if before is not None else streaming)

    async def states(self, conversation_id, wanted):
        if not isinstance(wanted, Lookup):
            wanted = Lookup(frozenset(wanted))
        named = [
            s for s in self.rows.values() if s.id in wanted.ids or s.position in wanted.serials
        ]
        if (place := wanted.anonymous_from) is not None:
            anonymous = [s for s in self.rows.values() if s.anonymous]
            low = max((s.position for s in anonymous if s.position <= place), default="")
            named += [s for s in anonymous if s.position >= low]
        return [self._read(s) for s in {s.id: s for s in named}.values()]

    @asynccontextmanager
    async def locked(self, conversation_id, channel):
        if self.conversation is None:
            self.conversation = Conversation(conversation_id, channel, self.now_ms)
        yield self

    async def messages(self, ids):
        return {s.id: s for s in await self.states("", ids)}

    async def open_beside(self, ids, *, most):
        beside = [s for s in self.rows.values() if s.status == "in_progress" and s.id not in ids]
        return min(len(beside), most)

    async def put(self, states):
        for state in states:
            old = self.rows.get(state.id)
            if old is not None and old.ended and state.status != old.status:
                raise Conflict(f"{state.id} has ended")
            kept = copy.deepcopy(state)
            kept.changed = False
            if (
                kept.ended and not kept.gaps()
            ):  # as the store does: finished messages are kept in their wire form
                finished = wire.state_of(wire.message(kept))
                finished.position = kept.position or insertion_position(self.now_ms, 0)
                finished.recent = kept.recent
                kept = finished
            self.rows[state.id] = kept

    async def move(self, watermark, hole, *, erased=(), stream=None, covered=None):
        holes = self.conversation.holes + ((hole,) if hole else ())
        self.conversation = self.conversation._replace(watermark=watermark, holes=holes)

    async def lease(self, message_id):
        return self.leases.get(message_id)

    async def grant(self, message_id, holder, lease_s):
        self.leases[message_id] = Lease(holder, expired=False, fenced=False, stop_acked=False)
