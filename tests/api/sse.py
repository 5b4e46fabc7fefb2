"""A parser of server-sent events by the standard, one block at a time."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import NamedTuple

from waiting import PATIENCE_S


class Told(NamedTuple):
    kind: str
    id: str | None
    data: dict


class Stream:
    """An open stream."""

    def __init__(self, response):
        self.response = response
        self.retry_ms = None
        self._lines = response.aiter_lines()

    async def next(self):
        """Return the next event; None at a clean end."""
        async with asyncio.timeout(PATIENCE_S):
            fields = {}
            async for line in self._lines:
                name, _, value = line.partition(":")
                value = value.removeprefix(" ")
                if not line and "data" in fields:
                    return Told(fields["event"], fields.get("id"), json.loads(fields["data"]))
                if not line:
                    fields = {}
                elif name == "retry":
                    self.retry_ms = int(value)
                elif name:
                    fields[name] = value
        return None

    async def comment(self):
        """Return the next comment, as it was sent."""
        async with asyncio.timeout(PATIENCE_S):
            return await anext(line async for line in self._lines if line.startswith(":"))

    async def take(self, count):
        return [await self.next() for _ in range(count)]


@asynccontextmanager
async def streamed(client, conversation, *, last=None, **params):
    """Open the stream of a conversation; assert that its status is 200."""
    headers = {"Last-Event-ID": last} if last else {}
    path = f"/v1/conversations/{conversation}/stream"
    async with client.stream("GET", path, params=params, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Stream(response)
