"""A publisher's process, to be killed: publishes a response, and then waits for more text."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

from appending import appender_to
from rehydrate import History
from rehydrate.publish import respond as responding


async def respond(job):
    """Publish with our library; without ``keeps``, the store has no text before the end."""
    if not job["keeps"]:
        responding.CHECKPOINT_S = 3600
    async with History() as history:
        async with history.respond(job["conversation"], job["id"]) as response:
            for token in job["tokens"]:
                response.write(token)
            if not job["ends"]:
                await asyncio.Event().wait()
        await asyncio.Event().wait()


async def append(job):
    """Publish with stock ably-python: a create, and appends to it."""
    async with appender_to(SimpleNamespace(**job["server"]), job["channel"]) as appender:
        serial = await appender.create(job["id"])
        for token in job["tokens"]:
            await appender.append(serial, token, rid=job["id"])
        await asyncio.Event().wait()


async def main():
    job = json.loads(sys.argv[1])
    await (append(job) if "server" in job else respond(job))


if __name__ == "__main__":
    asyncio.run(main())
