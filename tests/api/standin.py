"""An in-memory implementation of `rehydrate.api.service.Service` that can be made to fail."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from rehydrate.core import wire
from rehydrate.core.fold import MessageState
from rehydrate.core.positions import Cursor, encode_cursor
from rehydrate.core.text.content import collapsed_run
from rehydrate.core.timeline import Reason
from rehydrate.errors import Conflict, NotFound
from rehydrate.hydrate.hydrate import Hydrated
from rehydrate.ports import Conversation
from rehydrate.record.import_messages import StoreResult
from waiting import PATIENCE_S

NOW_MS = 1_767_225_600_000


class StandIn:
    """Conversations as lists of wire forms; if `fault` is set, every call raises it."""

    def __init__(self, channels=None):
        self.channels = channels or {}
        self.conversations_by_id = {}
        self.fault = None
        self.reasons = []
        self.gate = None
        self.opened = self.closed = 0
        self.asked = []
        self.woken = []
        self.arrived = asyncio.Semaphore(0)

    async def open(self):
        self.opened += 1

    async def close(self):
        self.closed += 1

    @property
    def readers(self):
        return self

    async def channel_of(self, conversation_id):
        self._fail()
        return self.channels.get(conversation_id, f"ai:{conversation_id}")

    async def hydrate(self, conversation_id, *, until, page, on_loaded):
        limit, before = page
        self.asked.append((conversation_id, until, limit, before))
        self._fail()
        if self.gate is not None:
            self.arrived.release()
            async with asyncio.timeout(PATIENCE_S):
                await self.gate.wait()
        rows = list(self.conversations_by_id.get(conversation_id, {}).items())
        if before is not None:
            rows = [row for row in rows if row[0] < before.message_id]
        page = rows[-limit:]
        older = Cursor("", page[0][0]) if len(rows) > limit else None
        return Hydrated(
            conversation_id,
            f"ai:{conversation_id}",
            until,
            None,
            [Reason(code, True, "for the test") for code in self.reasons],
            older and encode_cursor(older),
            [body for _, body in page],
            settled=before is not None,
        )

    async def message(self, conversation_id, message_id):
        self.asked.append((conversation_id, message_id))
        self._fail()
        try:
            return self.conversations_by_id[conversation_id][message_id]
        except KeyError:
            raise NotFound(f"there is no message {message_id!r}") from None

    async def store_messages(self, conversation_id, messages):
        self.asked.append((conversation_id, messages))
        self._fail()
        stored = self.conversations_by_id.setdefault(conversation_id, {})
        result = StoreResult([], [])
        bodies = {new.id: _body(new) for new in messages}
        for id_, body in bodies.items():
            if stored.get(id_, body) != body:
                raise Conflict(f"message {id_!r} is stored with other content")
            (result.unchanged if id_ in stored else result.stored).append(id_)
        stored.update(bodies)
        return result

    @asynccontextmanager
    async def joined(self, conversation_id, *, limit=50, after=None):
        self._fail()
        raise NotImplementedError("nothing is followed here; test_stream follows the real thing")
        yield

    async def erase(self, conversation_id):
        self._fail()
        self.conversations_by_id.pop(conversation_id, None)

    def record_soon(self, channels):
        self._fail()
        self.woken.append(list(channels))

    async def conversations(self, *, limit, before):
        self._fail()
        ids = sorted(self.conversations_by_id, reverse=True)
        if before is not None:
            ids = [id_ for id_ in ids if id_ < before.message_id]
        rows = [Conversation(id_, f"ai:{id_}", NOW_MS) for id_ in ids[:limit]]
        return rows, Cursor("", rows[-1].id) if len(ids) > limit else None

    async def ready(self):
        self._fail()
        return {"store": "ok", "channel": "ok"}

    def add(self, conversation_id, message_id, text, *, status="completed"):
        """Add a message."""
        state = MessageState(message_id, "assistant")
        state.status = status
        state.runs = [collapsed_run(0, 0, [{"type": "text", "text": text}], NOW_MS)]
        state.finished_ms = NOW_MS if status != "in_progress" else None
        body = wire.encode(state)
        self.conversations_by_id.setdefault(conversation_id, {})[message_id] = body
        return body

    def _fail(self):
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault


def _body(new):
    state = MessageState(new.id, new.role)
    parts = new.parts or [{"type": "text", "text": new.text or ""}]
    state.status = new.status
    state.runs = [collapsed_run(0, 0, parts, new.finished_ms or NOW_MS)]
    state.prompt_id, state.usage, state.metadata = new.prompt_id, new.usage, new.metadata
    state.started_ms, state.finished_ms = new.started_ms, new.finished_ms or NOW_MS
    return wire.encode(state)
