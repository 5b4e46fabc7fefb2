"""A channel that is published message by message at given times, over a real Postgres, and its readers."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import replace

from laws.identities import BEGAN_MS, Channel
from laws.memory import memory_context
from laws.test_client_js import in_javascript
from rehydrate.core import wire
from rehydrate.core.client_view import View
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import ChannelMessage
from rehydrate.core.timeline import Timeline
from rehydrate.follow.live_conversation import LiveConversation
from rehydrate.hydrate.hydrate import Page, hydrate, read
from rehydrate.record.catch_up import catch_up


class Scripted:
    """One conversation whose times are simulated."""

    def __init__(self, store, *, serials=True):
        self.id = f"c{uuid.uuid4().hex}"
        self.serials = serials
        self.channel = Channel([], page=1_000)
        ctx = memory_context(store, self.channel, lambda: self.channel.now_ms, retention_ms=10**13)
        self.ctx = replace(ctx, default_channel="ai:{}".format)

    def say(self, at_s, name, data=None, *, id_=None, client_id=None, **headers):
        """Publish a message at that second."""
        at_ms, number = BEGAN_MS + round(at_s * 1000), len(self.channel.log)
        serial = f"{at_ms:014d}-{number:03d}@s:000" if self.serials else None
        id_ = f"m{number}" if id_ is None else id_
        extras = {"headers": headers} if headers else None
        said = ChannelMessage(name, data, id_, serial, at_ms, client_id, extras)
        self.channel.log.append(said)

    def tell(self, at_s, *texts, stop=True, id_=None, gap_s=0.1, **headers):
        """Publish a whole answer, a token each *gap_s*; *id_*: of its start. Returns when it ended."""
        self.say(at_s, "start", id_=id_, **headers)
        for text in texts:
            at_s += gap_s
            self.say(at_s, "token", text, **headers)
        if stop:
            self.say(at_s + gap_s, "stop", **headers)
        return at_s + gap_s

    async def record(self, at_s):
        self._at(at_s)
        return await catch_up(self.ctx, self.id)

    async def rest(self, at_s, limit=50):
        """Return the messages of an answer at that second."""
        self._at(at_s)
        return (await hydrate(self.ctx, self.id, page=Page(limit))).messages

    async def follow(self, from_s, limit=50, rewind_s=0):
        """Return what a follower shows that joined then, and received all from *rewind_s* before."""
        self._at(from_s)
        reading = await read(self.ctx, self.id, page=Page(limit))
        conversation = LiveConversation(reading)
        live = self._since(from_s - rewind_s)
        rewound = [m for m in live if m.timestamp_ms <= self.channel.now_ms]
        for messages in (rewound, *([m] for m in live[len(rewound) :])):
            events = [decode(message) for message in messages]
            await conversation.look_up(self.ctx, events)
            for event in events:
                conversation.apply(event)
        return conversation.answer(200, self.channel.now_ms).messages

    async def view(self, from_s, limit=50):
        """Return what the readers in Python and JavaScript show that joined then."""
        self._at(from_s)
        answer = json.loads((await hydrate(self.ctx, self.id, page=Page(limit))).body)
        live = self._since(from_s - 10)
        view = View(answer)
        for message in live:
            view.apply_event(decode(message))
        if shutil.which("node") is not None:
            (by_js,) = in_javascript([(answer, live)])
            responses = [m for m in view.messages if m["role"] == "assistant"]
            in_js = texts(m for m in by_js["messages"] if m["role"] == "assistant")
            assert in_js.keys() == {m["id"] for m in responses}
            assert texts(m for m in responses if m["exact"]).items() <= in_js.items()
        return view.messages

    def fresh(self):
        """Return what one fold of the whole log shows."""
        timeline = Timeline()
        timeline.fold(decode_all(self.channel.log))
        return [wire.message(state) for state in timeline.ordered]

    async def stored(self):
        stored = await self.ctx.store.load(self.id, limit=1_000, before=None)
        messages = [json.loads(row.wire) for row in stored.finished]
        return messages + [wire.message(state) for state in stored.open]

    def _at(self, at_s):
        self.channel.now_ms = BEGAN_MS + round(at_s * 1000)

    def _since(self, from_s):
        low_ms = BEGAN_MS + round(from_s * 1000)
        return [m for m in self.channel.log if m.timestamp_ms > low_ms]


def texts(messages):
    """Return text and status by id."""
    return {m["id"]: (m["text"], m["status"]) for m in messages}
