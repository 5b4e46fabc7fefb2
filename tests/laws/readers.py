"""Readers in the three ways to join, over the use cases themselves, and what they have to show."""

from __future__ import annotations

import asyncio
import json

from laws.memory import MemoryChannel, MemoryStore, memory_context
from laws.rolling import changed_ms, live, rewound, rolled
from rehydrate.core.client_view import Verdict, View
from rehydrate.core.codecs import decode, decode_all
from rehydrate.core.event import Event
from rehydrate.core.fold import fold
from rehydrate.core.positions import channel_serial
from rehydrate.core.text.assembly import spoken_text
from rehydrate.core.timeline import Timeline
from rehydrate.hydrate.hydrate import hydrate
from rehydrate.ports import Conversation
from rehydrate.record.catch_up import catch_up

REWIND_MS = 10_000
PATIENCE = 40
AWAKE_MS = 4000
"""A reader that paused between the answer and the attach does not pause again."""


def truth(world):
    """Return the fold of everything that the channel ever accepted."""
    timeline = Timeline()
    timeline.fold(decode_all(each.message for each in rolled(world.log)))
    return timeline.messages


class Life:
    """The store and the channel of a world, simulated up to a moment."""

    def __init__(self, world):
        self.world = world
        self.store = MemoryStore()
        self.channel = MemoryChannel(
            world.log, lag_ms=world.lag_ms, retention_ms=world.retention_ms, page=world.page
        )
        self.now_ms = 0
        if world.retention_ms < REWIND_MS:  # a cut is unknown for a conversation without a row
            self.store.conversation = Conversation("c", "ai:c", 0)
        self.ctx = memory_context(
            self.store, self.channel, lambda: self.now_ms, retention_ms=world.retention_ms
        )
        jobs = [(at, "record", None) for at in world.catch_ups]
        jobs += [(at, "final", rid) for at, rid in world.finals]
        self._jobs = sorted(jobs, key=lambda job: job[0])

    async def until(self, at_ms):
        """Continue the simulation to *at_ms*."""
        while self._jobs and self._jobs[0][0] <= at_ms:
            when, what, rid = self._jobs.pop(0)
            self._at(when)
            if what == "record":
                await catch_up(self.ctx, "c")
            else:
                await self._commit_final(rid)
        self._at(max(at_ms, self.now_ms))

    async def hydrate(self, **asked):
        return await hydrate(self.ctx, "c", **asked)

    def _at(self, at_ms):
        self.now_ms = self.store.now_ms = self.channel.now_ms = at_ms

    async def _commit_final(self, rid):
        """Commit as `respond` does: all that was written, and a repair if readers lack some of it."""
        mine = [e for e in decode_all(p.message for p in self.world.log) if e.message_id == rid]
        stop = next(e for e in mine if e.kind == "stop")
        repairs = [e for e in mine if e.kind == "repair"]
        async with self.store.locked("c", "ai:c") as held:
            state = (await held.messages([rid])).get(rid)
            timeline = Timeline([state] if state else [])
            timeline.fold([Event("start", rid, 1, 0)])
            state = timeline.messages[rid]
            for seq, letter in enumerate(written(rid, stop.seq - 1), start=1):
                fold(state, Event("token", rid, 1, seq, text=letter))
            for event in (*repairs, stop):
                fold(state, event._replace(serial=None))
            await held.put([state])


def written(rid, tokens):
    """Return what the publisher of *rid* wrote."""
    first = 7 * "ABC".index(rid)
    return "abcdefghijklmnopqrstuvwxyz"[first : first + tokens]


async def read(world, joiner):
    """Return what a reader shows long after the last message: the view, the answer, and a finding."""
    life = Life(world)
    end_ms = changed_ms(world.log[-1].message) + 50_000
    way, at_ms, delay_ms = joiner
    for _ in range(PATIENCE):
        view, answer, feed, at_ms, way = await _join(life, at_ms, way, delay_ms)
        delay_ms = min(delay_ms, AWAKE_MS)
        if view is None:
            continue
        missing_at = _follow(view, feed, at_ms, world, end_ms)
        if missing_at is None and not view.stale:
            return view, answer, None
        at_ms = min(max(missing_at or 0, life.now_ms, at_ms) + 500, end_ms)
        way = 1
    return view, answer, "endless redo"


async def _join(life, at_ms, way, delay_ms):
    """Attach and hydrate in the order of *way*; return the answer and the messages of the overlap."""
    world = life.world
    if way in (1, 2):
        feed = _rewound(world, at_ms)
        await life.until(at_ms + delay_ms)
        past = [_version(p.message) for p in world.log if changed_ms(p.message) <= at_ms]
        point = max((channel_serial(s) for s in past if s), default=None) if way == 2 else None
        hydrated = await life.hydrate(until=point)
    else:
        await life.until(at_ms)
        hydrated = await life.hydrate()
        at_ms = life.now_ms + delay_ms
        low = hydrated.rewind_from
        if low is None:
            return None, None, None, at_ms, 1
        feed = rewound(world.log, at_ms, 0)
        feed = [p for p in feed if p.message.timestamp_ms > at_ms - world.retention_ms]
        feed = [p for p in feed if _version(p.message) > low][-world.rewind_cap :]
        cut = not feed or _version(feed[0].message) > (hydrated.until or "")
        if cut:
            return None, None, None, at_ms, 1
    answer = json.loads(hydrated.body)
    return View(answer), answer, feed, at_ms, way


def _rewound(world, at_ms):
    reach_ms = min(REWIND_MS, world.retention_ms)
    return rewound(world.log, at_ms, at_ms - reach_ms)[-world.rewind_cap :]


def _version(message):
    return message.version_serial or message.serial


def _follow(view, feed, attached_ms, world, end_ms):
    """Apply the overlap and the live messages; return when the view lacked something, or None."""
    for each in (*feed, *live(world, attached_ms, feed)):
        if changed_ms(each.message) > end_ms:
            break
        event = decode(each.message)
        if event is not None and view.apply_event(event) is Verdict.AGAIN:
            return max(changed_ms(each.message), attached_ms)
    return None


def judge(world, joiner):
    """Return what is wrong with what the reader shows; empty if the laws hold."""
    view, answer, failure = asyncio.run(read(world, joiner))
    if failure:
        return [failure]
    shown = {message["id"]: message for message in view.messages}
    retained = world.retention_ms > 10**6
    finals = {rid for _, rid in world.finals}
    wrong = []
    if answer["complete"] and not all(m["exact"] and not m["gaps"] for m in answer["messages"]):
        wrong.append("an answer is complete, and a message of it is not whole")
    for rid, true in truth(world).items():
        message = shown.get(rid)
        if message is None:
            if answer["complete"]:
                wrong.append(f"{rid}: lost whole, and complete")
            continue
        texts = {spoken_text(true.parts())}
        if rid in finals:
            texts.add(written(rid, (true.end or 1) - 1))
        admitted = message["gaps"] or not answer["complete"] or not message["exact"]
        if message["text"] not in texts:
            if not admitted:
                wrong.append(f"{rid}: shows {message['text']!r}, true {texts}, and says nothing")
            elif retained and not true.gaps() and true.exact:
                wrong.append(f"{rid}: shows {message['text']!r}, true {texts}, on the channel")
        if true.ended and message["status"] == "in_progress" and answer["complete"]:
            wrong.append(f"{rid}: never ends")
        if retained and true.ended and message["gaps"] and not true.gaps():
            wrong.append(f"{rid}: a gap stays that the channel filled")
    return wrong
