"""A live reader of a chat: the rules of a client over hydrate and a real subscription."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from types import SimpleNamespace

from rehydrate.core.client_view import View
from rehydrate.ports import Discontinuity
from shared_adapters import until


def as_sdk(message):
    """Return *message* as ably-python delivers it."""
    version = SimpleNamespace(serial=message.version_serial, metadata=message.version_metadata)
    fields = message._asdict() | {"timestamp": message.timestamp_ms, "version": version}
    return SimpleNamespace(**fields)


class Viewing:
    """A reader that attaches, hydrates, and hydrates again when the drop rule requires it.

    Attributes:
        agains: how often it hydrated again.
    """

    def __init__(self, chat, wait_for):
        self._chat = chat
        self._heard = wait_for
        self._view = View({"messages": [], "reasons": []})
        self._task = None
        self.agains = 0

    @property
    def texts(self):
        """Return text and status, by id; raise the error that has ended the reader."""
        task = self._task
        if task is not None and task.done() and not task.cancelled():
            task.result()
        return {m["id"]: (m["text"], m["status"]) for m in self._view.messages}

    async def wait_for(self, name, count):
        """Wait until *count* messages of that name were delivered and applied."""
        await until(lambda: sum(getattr(m, "name", "") == name for m in self._heard) >= count)
        await asyncio.sleep(0.1)  # and taken

    async def shows(self, **texts):
        """Wait until it shows these texts and statuses, by id, and nothing else."""
        await until(lambda: self.texts == texts)

    def start(self):
        self._task = asyncio.create_task(self._run())

    async def close(self):
        self._task.cancel()
        (ended,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(ended, Exception):
            raise ended

    async def _run(self):
        await self._hydrate()
        seen = 0
        while True:
            while seen < len(self._heard):
                message, seen = self._heard[seen], seen + 1
                if isinstance(message, Discontinuity):
                    await self._hydrate()
                elif not self._view.apply(as_sdk(message)):
                    self.agains += 1
                    await self._hydrate()
                    seen = 0  # an attach that rewinds
                    break
            await asyncio.sleep(0.02)

    async def _hydrate(self):
        while True:
            view = View(json.loads((await self._chat.hydrate()).body))
            if not view.stale:
                self._view = view
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def viewing(chat):
    """Run a reader of *chat* for the block."""
    async with chat.deliveries() as wait_for:
        viewer = Viewing(chat, wait_for)
        viewer.start()
        try:
            yield viewer
        finally:
            await viewer.close()
