"""The participants of a conversation: a service, a foreign publisher, and readers that follow."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from rehydrate.ably.channel_log import AblyChannel
from rehydrate.history import History
from rehydrate.ports import Outgoing
from rehydrate.settings import load_settings
from waiting import PATIENCE_S


def settings_for(database, server, **more):
    """Return settings of a service on *database* and the channel server *server*."""
    given = {
        "database_url": database,
        "ably_api_key": server.key,
        "ably_endpoint": "127.0.0.1",
        "ably_port": server.port,
        "ably_tls": False,
    }
    return load_settings(**(given | more))


@asynccontextmanager
async def history_over(database, server, **more):
    """Open a `History` on *database* and *server* for the block."""
    async with History(settings_for(database, server, **more)) as history:
        yield history


@asynccontextmanager
async def publisher_to(server, channel):
    """Open a foreign publisher, which uses only the channel, for the block."""
    async with AblyChannel(server.key, endpoint="127.0.0.1", port=server.port, tls=False) as ably:
        yield Publisher(ably, channel)


def completed(*rids):
    """Return True if a reader has seen the responses *rids* completed."""
    return lambda reader: all(reader.statuses.get(rid) == "completed" for rid in rids)


class Publisher:
    """Publishes single channel messages of responses."""

    def __init__(self, ably, channel):
        self._ably = ably
        self._channel = channel
        self._number = 0

    async def publish_message(self, name, data=None, *, rid=None, seq=None, id_=None, **headers):
        self._number += 1
        found = {"responseId": rid, "seq": seq, **headers}
        found = {key: value for key, value in found.items() if value is not None}
        extras = {"headers": found} if found else None
        outgoing = Outgoing(name, data, id_ or f"{rid}-{self._number}-{id(self)}", extras)
        return await self._ably.publish(self._channel, [outgoing])

    async def stream(self, rid, text, *, first=1, start=True, stop=True):
        """Publish a whole response, a character per token."""
        if start:
            await self.publish_message("start", rid=rid, seq=0)
        for seq, letter in enumerate(text, start=first):
            await self.publish_message("token", letter, rid=rid, seq=seq)
        if stop:
            await self.publish_message("stop", rid=rid, seq=first + len(text))


class Reader:
    """A reader that applies every event: a snapshot replaces all messages, a token is appended.

    It records duplicates and events out of order, where there are seqs.
    """

    def __init__(self):
        self.messages = {}
        self.snapshots = []
        self.kinds = []
        self.wrong = []
        self._seqs = {}

    def apply(self, event):
        self.kinds.append(event.kind)
        data = event.data
        if event.kind == "snapshot":
            self.snapshots.append(data)
            self.messages = {m["id"]: dict(m) for m in data["messages"]}
            self._seqs = {m["id"]: m["through"]["seq"] for m in data["messages"]}
            return
        if event.kind == "again":
            return
        id_, seq = data["message_id"], data["seq"]
        if seq is not None:
            last = self._seqs.get(id_)
            if seq != (0 if last is None else last + 1) and not (last is None and seq == 1):
                self.wrong.append((id_, last, seq))
            self._seqs[id_] = seq
        message = self.messages.setdefault(id_, {"id": id_, "text": "", "status": "in_progress"})
        if event.kind in ("token", "refusal"):
            message["text"] += data["text"]
        elif event.kind == "prompt":
            message.update(text=data["text"], status="completed", role="user")
        elif event.kind == "stop":
            message["status"] = data["status"]
        elif event.kind == "repair":
            message["text"] = data["text"]

    @property
    def texts(self):
        return {id_: m["text"] for id_, m in self.messages.items()}

    @property
    def statuses(self):
        return {id_: m["status"] for id_, m in self.messages.items()}


class Reading:
    """A reader that follows in its own task."""

    def __init__(self, events):
        self.reader = Reader()
        self._events = events
        self._came = asyncio.Event()
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: self._came.set())

    async def _run(self):
        async for event in self._events:
            self.reader.apply(event)
            self._came.set()

    async def until(self, condition, *, within_s=PATIENCE_S):
        """Wait until *condition* is true of the reader; return the reader."""
        async with asyncio.timeout(within_s):
            while not condition(self.reader):
                if self._task.done():
                    self._task.result()
                    raise AssertionError("it ended")
                self._came.clear()
                await self._came.wait()
        return self.reader

    async def close(self):
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._events.aclose()


@asynccontextmanager
async def reading(history, conversation_id, **how):
    """Run a reader for the block."""
    made = Reading(history.follow(conversation_id, **how))
    try:
        yield made
    finally:
        await made.close()


def attachments(server, conversation_id):
    """Return the attachments of a conversation's channel that rewind: those of followers."""
    found = [c for c in server.hub.channels() if c.name == f"ai:{conversation_id}"]
    attached = [each for channel in found for each in channel.attachments.values()]
    return [each for each in attached if each.params.get("rewind")]
