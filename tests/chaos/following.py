"""A follower over server-sent events that comes again, to whichever service answers."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress

import httpx


class Follower:
    """What a plain reader of the stream shows: text, status and what is missing, by message."""

    def __init__(self, world, conversation_id):
        self._world = world
        self.conversation_id = conversation_id
        self.shown = {}

    async def run(self):
        while True:
            port = random.choice(self._world.ports)
            url = f"http://127.0.0.1:{port}/v1/conversations/{self.conversation_id}/stream"
            with suppress(httpx.HTTPError):
                async with self._world.client.stream("GET", url, timeout=20) as response:
                    await self._read(response)
            await asyncio.sleep(random.uniform(0.1, 0.4))

    async def _read(self, response):
        kind = None
        async for line in response.aiter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                self._take(kind, json.loads(value))

    def _take(self, kind, data):
        if kind == "snapshot":
            self.shown = {
                each["id"]: [each["text"], each["status"], bool(each["gaps"])]
                for each in data["messages"]
            }
            return
        message = self.shown.setdefault(data.get("message_id"), ["", "in_progress", False])
        if kind == "token":
            message[0] += data["text"]
        elif kind == "repair":
            message[0] = "".join(
                part["text"] for part in data.get("parts", []) if part["type"] == "text"
            )
        elif kind == "stop":
            message[1] = data["status"]
