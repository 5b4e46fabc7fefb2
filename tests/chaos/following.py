"""A follower over server-sent events, which reconnects to any service that answers."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress

import httpx

from chaos.showing import Shown


class Follower:
    """A plain reader of the event stream; ``shown`` is what it shows, ``joins`` how often it joined.

    Attributes:
        url: the service that it reads from, or tried last.
    """

    def __init__(self, world, conversation_id):
        self._world = world
        self.conversation_id = conversation_id
        self.shown = Shown()
        self.joins = 0
        self.url = None

    async def run(self):
        while True:
            self.url = random.choice(self._world.urls)
            url = f"{self.url}/v1/conversations/{self.conversation_id}/stream"
            with suppress(httpx.HTTPError):
                async with self._world.client.stream("GET", url, timeout=20) as response:
                    self.joins += 1
                    await self._read(response)
            await asyncio.sleep(random.uniform(0.1, 0.4))

    async def _read(self, response):
        kind = None
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                self.shown.apply(kind, json.loads(value))
