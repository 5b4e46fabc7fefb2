"""Random logs of anonymous and named messages with hostile ids, and what each component makes of them."""

from __future__ import annotations

import json
import random
import uuid
from dataclasses import replace
from typing import NamedTuple

from laws.memory import memory_context
from rehydrate.core import wire
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import ChannelMessage
from rehydrate.core.positions import MARGIN_MS
from rehydrate.core.timeline import Timeline
from rehydrate.follow.live_conversation import LiveConversation
from rehydrate.hydrate.hydrate import MAX_LIMIT, Page, hydrate, read
from rehydrate.record.catch_up import catch_up

BEGAN_MS = 1_767_225_600_000
REWIND_MS = 10_000
TRIES = 20


class Log(NamedTuple):
    """Channel messages in their order, and whether the channel gives them serials."""

    messages: list[ChannelMessage]
    serials: bool


class _Writer:
    """Writes a random log, publisher by publisher."""

    def __init__(self, rng):
        self.rng = rng
        self.serials = rng.random() < 0.5
        self.messages = []
        self.at_ms = BEGAN_MS
        self.named = [f"r{n}" for n in range(3)]
        self.prompts = [f"p{n}" for n in range(2)]
        self.said_ids = []

    def log(self):
        streams = [self._named(name) for name in self.named if self.rng.random() < 0.6]
        streams.append(self._anonymous_stream())
        if self.rng.random() < 0.2:
            streams.append(self._anonymous_stream())
        streams.append([("user-input", {"promptId": p, "text": f"?{p}"}, {}) for p in self.prompts])
        together = self.rng.random() < 0.5
        while streams := [stream for stream in streams if stream]:
            stream = streams[0] if together else self.rng.choice(streams)
            name, data, headers = stream.pop(0)
            self._say(name, data, headers)
        return Log(self.messages, self.serials)

    def _say(self, name, data, headers):
        pause = self.rng.choice([0, 1, 50, 300, 900, 900, 2_500, 6_500])
        self.at_ms += pause if self.serials else max(1, pause)  # a time of its own orders it
        id_ = self._id(headers)
        self.said_ids.append(id_)
        client = "mallory" if self.rng.random() < 0.05 else None
        serial = f"{self.at_ms:014d}-{len(self.messages):03d}@s:000" if self.serials else None
        extras = {"headers": headers} if headers else None
        said = ChannelMessage(name, data, id_, serial, self.at_ms, client, extras)
        self.messages.append(said)
        if self.rng.random() < 0.05:  # published again, after an acknowledgement that was lost
            self.at_ms += self.rng.choice([1, 400, 2_000])
            again = f"{self.at_ms:014d}-{len(self.messages):03d}@s:000" if self.serials else None
            self.messages.append(said._replace(serial=again, timestamp_ms=self.at_ms))

    def _id(self, headers):
        own = f"m{len(self.messages)}"
        if headers.get("responseId") or self.rng.random() < 0.75:
            return own
        return self.rng.choice([own, *self.named, *self.prompts, *self.said_ids[-40:]])

    def _named(self, name):
        numbered = self.rng.random() < 0.6
        id_ = name
        if self.rng.random() < 0.1:
            id_ = f"m{self.rng.randrange(12)}"  # perhaps that of an anonymous message
        return self._response({"responseId": id_}, numbered)

    def _anonymous_stream(self):
        said = []
        for _ in range(self.rng.randint(1, 5)):
            said += self._response({}, self.rng.random() < 0.2)
        return said

    def _response(self, headers, numbered):
        def numbers(seq):
            return headers | ({"seq": seq} if numbered else {})

        texts = [self.rng.choice("abcdefgh") for _ in range(self.rng.randint(0, 4))]
        said = [("start", None, numbers(0))] if self.rng.random() < 0.8 else []
        said += [("token", text, numbers(seq)) for seq, text in enumerate(texts, 1)]
        if texts and self.rng.random() < 0.08:
            data = None if self.rng.random() < 0.5 else "".join(texts)
            said.append(("response-complete", data, numbers(len(texts))))
        if self.rng.random() < 0.75:
            said.append(("stop", None, numbers(len(texts) + 1)))
        return said


def random_log(seed):
    """Return the log of *seed*."""
    return _Writer(random.Random(f"log {seed}")).log()


def shown(messages):
    """Return what must be equal, by id."""
    keys = ("role", "status", "text", "gaps", "exact")
    return {m["id"]: {key: m[key] for key in keys} for m in json.loads(json.dumps(messages))}


def fresh(messages):
    """Return what one fold of *messages* shows."""
    timeline = Timeline()
    timeline.fold(decode_all(messages))
    return shown([wire.message(state) for state in timeline.ordered])


class Channel:
    """History as it is at ``now_ms``, every message of its own, in small pages."""

    def __init__(self, log, page):
        self.log, self.page, self.now_ms = log, page, 0

    async def history(self, channel, *, since_ms=None, until=None, forwards=False, limit=1000):
        rows = [m for m in self.log if (since_ms or 0) <= m.timestamp_ms <= self.now_ms]
        for at in range(0, len(rows), self.page):
            yield rows[at : at + self.page]


class Run:
    """One log, lived through with a real store: recorded, hydrated and followed at random times."""

    def __init__(self, seed, store):
        self.rng = random.Random(f"run {seed}")
        self.log = random_log(seed)
        self.conversation = f"c{uuid.uuid4().hex}"
        self.channel = Channel(self.log.messages, self.rng.randint(1, 9))
        ctx = memory_context(store, self.channel, lambda: self.channel.now_ms, retention_ms=10**13)
        self.ctx = replace(ctx, default_channel="ai:{}".format)
        self.end_ms = self.log.messages[-1].timestamp_ms + 1
        self.differences = []
        self.case = self.waiting = None

    async def live(self):
        """Return the differences between what each component shows and the fold of the log."""
        times = sorted(self._moment() for _ in range(self.rng.randint(0, 4)))
        join_ms = self._moment()
        joined = False
        for at_ms in [*times, self.end_ms]:
            if not joined and at_ms >= join_ms:
                joined = True
                self.channel.now_ms = join_ms
                await self._join(join_ms)
            await self._deliver(at_ms)
            self.channel.now_ms = at_ms
            await self._hydrate("REST", at_ms)
            if at_ms != self.end_ms or self.rng.random() < 0.7:
                await catch_up(self.ctx, self.conversation)
                await self._stored(at_ms)
            await self._hydrate("REST, recorded", at_ms)
        self._follow()
        self._view()
        return self.differences

    def _moment(self):
        return self.rng.randint(BEGAN_MS, self.end_ms)

    def _past(self, at_ms, since_ms=0):
        return [m for m in self.log.messages if since_ms <= m.timestamp_ms <= at_ms]

    def _compare(self, who, at_ms, messages, expected):
        if messages != expected:
            ids = messages.keys() | expected.keys()
            differing = {
                id_: (messages.get(id_), expected.get(id_))
                for id_ in ids
                if messages.get(id_) != expected.get(id_)
            }
            self.differences.append((who, at_ms - BEGAN_MS, differing))

    async def _hydrate(self, who, at_ms):
        hydrated = await hydrate(self.ctx, self.conversation, page=Page(MAX_LIMIT))
        self._compare(who, at_ms, shown(hydrated.messages), fresh(self._past(at_ms)))
        limit = self.rng.randint(1, 3)
        page = shown((await hydrate(self.ctx, self.conversation, page=Page(limit))).messages)
        expected = fresh(self._past(at_ms))
        stored = await self.ctx.store.load(self.conversation, limit=1, before=None)
        open_ids = {
            state.id for state in stored.open
        }  # no older page has them, if they ended since
        open_ids |= {id_ for id_, m in expected.items() if m["status"] == "in_progress"}
        finished = [id_ for id_ in expected if id_ not in open_ids]
        kept = {id_: m for id_, m in expected.items() if id_ not in finished[:-limit]}
        self._compare(f"{who}, limit {limit}", at_ms, page, kept)

    async def _stored(self, at_ms):
        stored = await self.ctx.store.load(self.conversation, limit=1_000, before=None)
        messages = [json.loads(row.wire) for row in stored.finished]
        messages += [wire.message(state) for state in stored.open]
        self._compare("store", at_ms, shown(messages), fresh(self._past(at_ms)))

    async def _join(self, at_ms):
        """Begin to follow, with few messages in memory, and to view the whole answer."""
        self.follower_at = at_ms
        reading = await read(self.ctx, self.conversation, page=Page(self.rng.randint(1, 3)))
        self.followed = LiveConversation(reading)
        low_ms = at_ms - REWIND_MS
        self.waiting = [m for m in self.log.messages if m.timestamp_ms >= low_ms]
        answer = await hydrate(self.ctx, self.conversation, page=Page(MAX_LIMIT))
        self.answer = json.loads(answer.body)

    async def _deliver(self, until_ms):
        """Deliver what follows the attach, and the rewind before it, to the follower."""
        if self.waiting is None:
            return
        rewound = [m for m in self.waiting if m.timestamp_ms <= self.follower_at]
        if rewound:  # looked up together, then applied: as a feed merges them into what it read
            await self._receive(rewound)
        while self.waiting and self.waiting[0].timestamp_ms <= until_ms:
            await self._receive(self.waiting[:1])

    async def _receive(self, messages):
        events = [decode(message) for message in messages]
        del self.waiting[: len(messages)]
        self.channel.now_ms = max(messages[-1].timestamp_ms, self.follower_at)
        await self.followed.look_up(self.ctx, events)
        for at, event in enumerate(events, 1):
            if self.followed.apply(event).verdict is Verdict.AGAIN:
                reading = await read(self.ctx, self.conversation, page=Page(2))
                self.followed = LiveConversation(reading)
                await self.followed.look_up(self.ctx, events[at:])

    def _follow(self):
        messages = shown(self.followed.answer(MAX_LIMIT, self.end_ms).messages)
        expected = fresh(self.log.messages)
        self._tolerate(messages, expected)
        page = {id_: m for id_, m in expected.items() if id_ in messages}
        lacking = [i for i, m in expected.items() if m["status"] == "in_progress" and i not in page]
        self._compare("follower", self.follower_at, messages, page)
        if lacking:
            self.differences.append(("follower lacks", self.follower_at - BEGAN_MS, lacking))

    def _reuses_ids(self):
        first = {}
        for m in self.log.messages:
            if m.timestamp_ms - first.setdefault(m.id, m.timestamp_ms) > MARGIN_MS:
                return True
        return False

    def _tolerate(self, messages, expected):
        """Allow a live reader what it may differ in: it sees fewer signs that a text is inexact,
        and what it shows with ``exact: false`` says itself that it may be wrong.
        """
        for id_, message in messages.items():
            known = expected.get(id_, {"exact": True})
            if message["exact"]:
                known["exact"] = True
            elif not known["exact"]:
                known["text"] = message["text"]

    def _view(self):
        live = [m for m in self.log.messages if m.timestamp_ms >= self.follower_at - REWIND_MS]
        view = View(self.answer)
        for message in live:
            if view.apply_event(decode(message)) is Verdict.AGAIN:
                return
        self.case = (self.answer, live)
        if self._reuses_ids():
            return  # an answer gives the ids of the margin without their times
        expected, messages = fresh(self.log.messages), shown(view.messages)
        self._tolerate(messages, expected)
        self._compare("view", self.follower_at, messages, expected)
