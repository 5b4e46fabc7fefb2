"""A live reader of a room: the client's duty, over the room's own hydrate and a real subscription."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

from exactness.rooms import until
from rehydrate.core.client_view import View


def as_sdk(message):
    """*message* as ably-python gives it."""
    version = SimpleNamespace(serial=message.version_serial, metadata=message.version_metadata)
    fields = message._asdict() | {"timestamp": message.timestamp_ms, "version": version}
    return SimpleNamespace(**fields)


class Viewing:
    """What a reader shows that attached, hydrated, and hydrates again where it must.

    Attributes:
        agains: how often it did.
    """

    def __init__(self, room, heard):
        self._room = room
        self._heard = heard
        self._view = View({"messages": [], "reasons": []})
        self.agains = 0

    @property
    def texts(self):
        """Text and status, by id."""
        return {m["id"]: (m["text"], m["status"]) for m in self._view.messages}

    async def heard(self, name, count):
        """Wait until so many messages of that name were delivered."""
        await until(lambda: sum(m.name == name for m in self._heard) >= count)
        await asyncio.sleep(0.1)  # and taken

    async def shows(self, **texts):
        """Wait until it shows these texts and statuses, by id, and nothing else."""
        await until(lambda: self.texts == texts)

    async def run(self):
        await self._hydrate()
        seen = 0
        while True:
            while seen < len(self._heard):
                message, seen = self._heard[seen], seen + 1
                if not self._view.apply(as_sdk(message)):
                    self.agains += 1
                    await self._hydrate()
                    seen = 0  # an attach that rewinds
                    break
            await asyncio.sleep(0.02)

    async def _hydrate(self):
        while True:
            view = View(json.loads((await self._room.hydrate()).body))
            if not view.stale:
                self._view = view
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def viewing(room):
    """A reader of *room*, while the block runs."""
    async with room.listening() as heard:
        viewer = Viewing(room, heard)
        task = asyncio.create_task(viewer.run())
        try:
            yield viewer
        finally:
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(ended, Exception):
                raise ended
