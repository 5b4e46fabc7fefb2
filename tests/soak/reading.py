"""Readers of a soak: how each joins, and a check of what it shows at every change."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from contextlib import suppress

import httpx
from ably import AblyRealtime
from ably.util.exceptions import AblyException

from api.sse import Stream as EventLines
from rehydrate.core.text.assembly import spoken_text
from rehydrate.demo.reader import show
from rehydrate.errors import ChannelUnavailable, StoreUnavailable
from soak.truth import FRESH_S

PATIENCE_S = 75.0
_RELOADS = (
    AblyException,
    httpx.HTTPError,
    OSError,
    TimeoutError,
    StoreUnavailable,
    ChannelUnavailable,
)
"""Errors after which a page is reloaded."""


class Reader:
    """One reader of a conversation.

    Attributes:
        shown: the messages that it has shown, by id.
        now: those that it shows now.
    """

    def __init__(self, world, plan, way, truth, tally):
        self.world = world
        self.plan = plan
        self.way = way
        self.truth = truth
        self.tally = tally
        self.shown = {}
        self.now = {}
        self.excused = False
        self._found = set()
        self._admitted = set()
        self._changed = asyncio.Event()
        self._turn = random.randrange(2)

    def show(self, messages, *, excused=None):
        """Add *messages* to the shown ones, and check them."""
        if excused is not None:
            self.excused = excused
        now_s = time.time()
        self.now = {message["id"]: message for message in messages}
        for message in messages:
            self.shown[message["id"]] = message
            stream = self.truth.get(message["id"])
            if stream is not None:
                self._judge(stream, message, now_s)
        self._changed.set()

    def _judge(self, stream, message, now_s):
        verdict = stream.judge(message, excused=self.excused)
        if verdict.wrong and stream.id not in self._found:
            self._found.add(stream.id)
            self.tally.report(
                f"{self}: {stream.kind} {stream.id} [{message['status']}] {message['text'][-60:]!r} "
                f"of {len(message['text'])}, gaps {message.get('gaps')}",
                lost=verdict.lost,
                doubled=verdict.doubled,
            )
        if verdict.admitted and stream.id not in self._admitted:
            self._admitted.add(stream.id)
            self.tally.gaps += 1
        if not verdict.wrong and not verdict.admitted:
            stream.note_shown(len(message["text"]), now_s)

    def check_freshness(self, asked_s):
        """Check that the shown text is as of shortly before *asked_s*, or is marked as incomplete."""
        for stream in self.truth.values():
            if self.excused or len(stream.texts) > 1 or stream.kind in ("ephemeral", "unkept"):
                continue
            message = self.shown.get(stream.id)
            known = stream.shown_until(asked_s - FRESH_S)
            behind = known - len(message["text"] if message else "")
            if behind > 0 and not (message and (message.get("gaps") or message["exact"] is False)):
                self.tally.report(f"{self}: {stream.kind} {stream.id} lacks {behind}", lost=behind)

    def count_characters(self):
        """Count the characters that were shown last."""
        texts = [m["text"] for id_, m in self.shown.items() if id_ in self.truth]
        self.tally.characters += sum(map(len, texts))

    async def wait_for_end(self):
        """Wait until every message is shown as it ended; report those that are not."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                while self._unfinished():
                    self._changed.clear()
                    await self._changed.wait()
        for stream in self._unfinished():
            message = self.shown.get(stream.id) or {"text": "", "status": "not there"}
            if self._reports_lost_history(stream, message):
                continue
            self.tally.report(
                f"{self}: {stream.kind} {stream.id} stays [{message['status']}] "
                f"{len(message['text'])} of {len(stream.final[1])}, {message['text'][-40:]!r}, "
                f"gaps {message.get('gaps')}, not {stream.final[0]}",
                lost=max(0, len(stream.final[1]) - len(message["text"])),
                unended=1,
            )

    def _reports_lost_history(self, stream, message):
        """Return True if *message* ended with declared gaps, on a channel that lost history."""
        ended = message["status"] == stream.final[0] and self.plan.namespace == "ai"
        return ended and bool(message.get("gaps")) and stream.judge(message).admitted

    def _unfinished(self):
        live = [
            s for s in self.truth.values() if s.is_live_for_all or not self.way.startswith("js")
        ]
        return [s for s in live if s.final and not self._is_at_end(s)]

    def _is_at_end(self, stream):
        message = self.shown.get(stream.id)
        if message is None or message["status"] != stream.final[0]:
            return False
        return message["text"] == stream.final[1] or (
            stream.may_lack and stream.judge(message).admitted
        )

    def __str__(self):
        return f"{self.way} in {self.plan.conversation_id}"

    # -- the ways to read -------------------------------------------------------------------------

    async def run(self):
        """Read until cancelled, and join again whenever that fails."""
        way, _, number = self.way.partition("-")
        while True:
            try:
                await getattr(self, f"_by_{way}")(*([int(number)] if number else []))
            except _RELOADS as error:
                self.tally.reloads[f"{way}: {type(error).__name__}"] += 1
            except TypeError:  # of the SDK, when a channel is detached while it attaches
                if way != "python":
                    raise
                self.tally.reloads["python: TypeError"] += 1
            await asyncio.sleep(random.uniform(0.2, 0.6))

    async def load_once(self):
        """Load and check one answer of the service."""
        asked_s = time.time()
        answer = await self.load()
        self.shown.clear()
        self.show(answer["messages"], excused=bool(answer["reasons"]))
        self.check_freshness(asked_s)

    async def load(self, until=None):
        """Return the answer of the first service that answers."""
        headers = {"authorization": f"Bearer {self.world.token(self.plan.conversation_id)}"}
        params = {"limit": 200} | ({"until": until} if until else {})
        last_s = time.monotonic() + 30
        while True:
            self._turn ^= 1
            url = self.world.url(self.plan.conversation_id, service=self._turn)
            with suppress(httpx.TransportError):
                answer = await self.world.client.get(url, params=params, headers=headers)
                if answer.status_code == 200:
                    return answer.json()
            if time.monotonic() > last_s:
                raise TimeoutError
            await asyncio.sleep(0.2)

    async def _by_rest(self):
        await self.load_once()
        await asyncio.sleep(random.uniform(0.3, 1.5))

    async def _by_python(self, way):
        async def load(until=None):
            answer = await self.load(until)
            self.excused = bool(answer["reasons"])
            return answer

        token = self.world.token(self.plan.conversation_id)
        ably = AblyRealtime(token=token, **self.world.ably)
        try:
            await show(ably, self.plan.conversation_id, load, lambda v: self.show(v.messages), way)
        finally:
            with suppress(*_RELOADS):
                async with asyncio.timeout(5):
                    await ably.close()

    async def _by_follow(self):
        view = StreamView(self)
        async for event in self.world.watcher.follow(self.plan.conversation_id, limit=200):
            view.apply(event.kind, event.data)

    async def _by_sse(self):
        view, last = StreamView(self), None
        headers = {"authorization": f"Bearer {self.world.token(self.plan.conversation_id)}"}
        while True:
            self._turn ^= random.randrange(2)
            url = f"{self.world.url(self.plan.conversation_id, service=self._turn)}/stream"
            more = {"last-event-id": last} if last else {}
            with suppress(httpx.HTTPError, TimeoutError):
                async with self.world.client.stream(
                    "GET", url, params={"limit": 200}, headers=headers | more, timeout=20
                ) as response:
                    lines = EventLines(response)
                    while response.status_code == 200 and (event := await lines.next()):
                        view.apply(event.kind, event.data)
                        last = event.id
            await asyncio.sleep(random.uniform(0.1, 0.4))

    async def _by_js(self, way):
        async with self.world.node.reading(self, way) as failed:
            raise OSError(await failed)


class StreamView:
    """The messages that a reader of the event stream shows: it applies every event."""

    def __init__(self, reader):
        self._reader = reader
        self._messages = {}
        self._gens = defaultdict(lambda: 1)

    def apply(self, kind, data):
        """Apply the next event."""
        if kind == "again":
            return
        if kind == "snapshot":
            self._messages = {m["id"]: m for m in data["messages"]}
            self._gens.clear()
            self._gens.update({m["id"]: m["through"]["gen"] for m in data["messages"]})
            self._reader.show(data["messages"], excused=bool(data["reasons"]))
            return
        id_ = data["message_id"]
        if data["gen"] > self._gens[id_]:
            self._messages.pop(id_, None)
        self._gens[id_] = data["gen"]
        message = self._messages.setdefault(
            id_, {"id": id_, "text": "", "status": "in_progress", "gaps": []}
        )
        known = 0 if kind == "repair" else message.get("unreadable", 0)
        message["unreadable"] = known + data.get("unreadable", 0)
        if kind in ("token", "refusal"):
            message["text"] += data["text"]
        elif kind == "prompt":
            message |= {"text": data["text"], "status": "completed"}
        elif kind == "repair":
            message["text"] = data["text"] if "text" in data else spoken_text(data["parts"])
        elif kind == "stop":
            message["status"] = data["status"]
        self._reader.show([message])
        self._reader.now = self._messages
