"""Conversations over a real Postgres and a real channel server, in which a test controls the order.

`SharedAdapters` has the real adapters, once for a module; `IsolatedConversation` is one
conversation on them. `HookedPort` wraps a port and awaits a hook before chosen calls; with a `Latch`
as the hook, a test decides which of two calls goes first, without sleeping.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from localably import LocalAbly
from rehydrate.ably.channel_log import AblyChannel
from rehydrate.context import Context, PublishOptions
from rehydrate.core import codecs
from rehydrate.core.event import Event
from rehydrate.hydrate.hydrate import Page, hydrate
from rehydrate.ports import Outgoing
from rehydrate.postgres.store import PostgresStore
from rehydrate.publish.checkpoints import Checkpoints
from rehydrate.publish.publish_queue import PublishQueue
from rehydrate.publish.respond import respond
from rehydrate.record.catch_up import catch_up
from rehydrate.record.import_messages import store_messages
from waiting import PATIENCE_S


def now_ms():
    return time.time_ns() // 1_000_000


class HookedPort:
    """A port that awaits ``hooks[name]()`` before it forwards a call of that name."""

    def __init__(self, port, **hooks):
        self._port = port
        self._hooks = hooks

    async def _call_hook(self, name):
        if name in self._hooks:
            async with asyncio.timeout(PATIENCE_S):
                await self._hooks[name]()

    async def conversation(self, conversation_id):
        await self._call_hook("conversation")
        return await self._port.conversation(conversation_id)

    async def load(self, *args, **more):
        await self._call_hook("load")
        return await self._port.load(*args, **more)

    async def states(self, *args, **more):
        await self._call_hook("states")
        return await self._port.states(*args, **more)

    @asynccontextmanager
    async def locked(self, *args):
        await self._call_hook("locked")
        async with self._port.locked(*args) as held:
            yield held

    async def history(self, *args, **more):
        await self._call_hook("history")
        async with aclosing(self._port.history(*args, **more)) as pages:
            async for page in pages:
                yield page
                await self._call_hook("page")
        await self._call_hook("read")

    def reserve(self, channel, **more):
        return self._port.reserve(channel, **more)

    def publish(self, channel, batch):
        messages = batch() if callable(batch) else batch
        names = {message.name for message in messages} & self._hooks.keys()
        if names:
            late = asyncio.ensure_future(self._published_late(names, channel, messages))
            # The caller may have given up. An error that is never read would be logged in another test.
            late.add_done_callback(lambda done: done.cancelled() or done.exception())
            return late
        return self._port.publish(channel, messages)

    async def _published_late(self, names, channel, messages):
        for name in names:
            await self._call_hook(name)
        return await self._port.publish(channel, messages)


class Latch:
    """Blocks its callers until it is opened; ``reached`` waits for the first caller."""

    def __init__(self):
        self._arrived, self._opened = asyncio.Event(), asyncio.Event()

    async def __call__(self):
        self._arrived.set()
        await self._opened.wait()

    async def reached(self):
        async with asyncio.timeout(PATIENCE_S):
            await self._arrived.wait()

    def open(self):
        self._opened.set()


class IsolatedConversation:
    """One conversation on shared adapters, with a context and a clock of its own."""

    def __init__(self, adapters, *, clock, retention_ms, agents):
        self.id = f"c-{secrets.token_hex(5)}"
        self.name = f"ai:{self.id}"
        self.adapters = adapters
        self.store = adapters.store
        self.channel = adapters.channel
        self.ctx = Context(
            store=adapters.store,
            channel=adapters.channel,
            publish_queue=PublishQueue(adapters.channel),
            now_ms=clock,
            retention_ms=retention_ms,
            agents=agents,
            publish_options=PublishOptions(),
            channel_of=self._channel_of,
            default_channel=lambda _: self.name,
        )
        self.faults = adapters.server.faults
        self._count = itertools.count()

    async def _channel_of(self, _):
        return self.name

    def context(self, *, store=None, channel=None, ahead_ms=0, options=None):
        """Return this conversation's context, with another store, channel, options or clock."""
        changes = {}
        if store is not None:
            changes["store"] = store
        if channel is not None:
            changes["channel"] = channel
            changes["publish_queue"] = PublishQueue(channel)
        if ahead_ms:
            changes["now_ms"] = lambda: self.ctx.now_ms() + ahead_ms
        if options is not None:
            changes["publish_options"] = options
        return replace(self.ctx, **changes)

    async def hydrate(self, *, store=None, channel=None, ahead_ms=0, limit=50, before=None, **more):
        ctx = self.context(store=store, channel=channel, ahead_ms=ahead_ms)
        return await hydrate(ctx, self.id, page=Page(limit, before), **more)

    async def catch_up(self, *, store=None, channel=None, ahead_ms=0):
        return await catch_up(
            self.context(store=store, channel=channel, ahead_ms=ahead_ms), self.id
        )

    def respond(self, rid, *, store=None, channel=None, options=None, **more):
        ctx = self.context(store=store, channel=channel or self.channel, options=options)
        return respond(ctx, self.id, rid, **more)

    async def store_messages(self, *messages):
        return await store_messages(self.ctx, self.id, messages)

    async def publish_message(self, name, data=None, *, client_id=None, **headers):
        """Publish one message; return its serial once it is acknowledged."""
        extras = {"headers": headers} if headers else None
        message = Outgoing(name, data, f"{self.id}-{next(self._count)}", extras, client_id)
        (serial,) = await self.channel.publish(self.name, [message])
        return serial

    async def publish_response(self, rid, text, *, start=True, stop=True, first=1, **headers):
        """Publish a response as a foreign publisher does, a letter per token; return the last serial."""
        last = None
        if start:
            last = await self.publish_message("start", responseId=rid, seq=0, **headers)
        for seq, letter in enumerate(text, first):
            last = await self.publish_message("token", letter, responseId=rid, seq=seq, **headers)
        if stop:
            last = await self.publish_message(
                "stop", responseId=rid, seq=first + len(text), **headers
            )
        return last

    async def on_channel(self):
        """Return the channel messages, oldest first."""
        found = []
        async with aclosing(self.channel.history(self.name, forwards=True)) as pages:
            async for page in pages:
                found += page
        return found

    async def wait_for_history(self, count):
        """Wait until history shows *count* messages."""
        async with asyncio.timeout(PATIENCE_S):
            while len(await self.on_channel()) < count:  # noqa: ASYNC110 - others publish them
                await asyncio.sleep(0.01)

    async def shown(self, **asked):
        """Hydrate; return text and status by id."""
        hydrated = await self.hydrate(**asked)
        return {m["id"]: (m["text"], m["status"]) for m in hydrated.messages}

    async def row(self):
        return (await self.store.load(self.id, limit=1, before=None)).conversation

    async def channel_events(self):
        """Return name, seq and gen of the channel messages, in order."""
        told = [(m.name, m.extras["headers"]) for m in await self.on_channel()]
        return [(name, headers["seq"], headers["gen"]) for name, headers in told]

    async def message(self):
        """Hydrate; return the only message."""
        (message,) = (await self.hydrate()).messages
        return message

    async def lease(self, rid):
        async with self.store.locked(self.id, self.name) as held:
            return await held.lease(rid)

    async def stored(self):
        """Return text and status by id, from the store alone."""
        ids = {e.message_id for m in await self.on_channel() if (e := codecs.decode(m))} - {None}
        states = await self.store.states(self.id, ids)
        return {s.id: ("".join(p["text"] for p in s.parts()), s.status) for s in states}

    async def wait_until_stored(self, rid, text):
        """Wait until the store has *text* of *rid*."""
        async with asyncio.timeout(PATIENCE_S):
            while (await self.stored())[rid][0] != text:  # noqa: ASYNC110 - others write it
                await asyncio.sleep(0.01)

    async def claimed(self, rid):
        """Claim a lease on *rid*, whose publisher publishes only what the test publishes."""
        ledger = Checkpoints(self.ctx, self.id)
        await ledger.claim(rid, None, None)
        return ledger

    async def take_over(self, rid):
        """Give the lease of *rid* to another holder, already expired."""
        async with self.store.locked(self.id, self.name) as held:
            await held.grant(rid, "nobody that lives", -1.0)

    @asynccontextmanager
    async def deliveries(self):
        """Collect what the channel delivers during the block, in a list."""
        heard = []

        async def listen(subscription):
            async for message in subscription:
                heard.append(message)  # noqa: PERF401 - each as it comes

        async with self.adapters.other.subscribe(self.name) as subscription:
            task = asyncio.create_task(listen(subscription))
            try:
                yield heard
            finally:
                task.cancel()
                (ended,) = await asyncio.gather(task, return_exceptions=True)
                if isinstance(ended, Exception):
                    raise ended


class SharedAdapters:
    """Postgres, the channel server, and two connections to it."""

    def __init__(self, store, server, channel, other, database):
        self.store, self.server, self.channel, self.other = store, server, channel, other
        self.database = database
        self._tasks = []

    def spawn(self, coroutine):
        """Run *coroutine* as a task, which `close` cancels if it still runs."""
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextlib.contextmanager
    def conversation(self, *, retention_ms=120_000, agents=frozenset(), clock=now_ms):
        """Create a conversation for the block; its faults are switched off at the end."""
        try:
            yield IsolatedConversation(self, clock=clock, retention_ms=retention_ms, agents=agents)
        finally:
            self.server.faults.clear()


def channel_of(server, **more):
    return AblyChannel(server.key, endpoint="127.0.0.1", port=server.port, tls=False, **more)


@asynccontextmanager
async def open_adapters(database):
    store = PostgresStore(database)
    async with LocalAbly() as server, channel_of(server) as channel, channel_of(server) as other:
        adapters = SharedAdapters(store, server, channel, other, database)
        await store.open()
        try:
            yield adapters
        finally:
            await adapters.close()
            await store.close()


async def within(awaitable, seconds=PATIENCE_S):
    async with asyncio.timeout(seconds):
        return await awaitable


async def until(holds):
    """Wait until *holds* is true."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - of what others change
            await asyncio.sleep(0.005)


def event_of(kind, rid, seq, text=None, **fields):
    return Event(kind, rid, 1, seq, text=text, **fields)
