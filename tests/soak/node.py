"""A Node.js process with readers that use stock ably-js."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

HERE = Path(__file__).parent
MODULES = HERE.parent / "js"
CLIENT = HERE.parents[1] / "service" / "rehydrate" / "api" / "client.js"


def missing():
    """Return why ably-js is not available; None if it is."""
    if shutil.which("node") is None:
        return "Node.js is not installed"
    if not (MODULES / "node_modules" / "ably" / "package.json").exists():
        return "the npm package ably is not installed: npm ci in tests/js"
    return None


class Node:
    """The readers of one Node.js process."""

    def __init__(self, world):
        self._world = world
        self._process = None
        self._reading = None
        self._readers = {}
        self._numbers = itertools.count()

    async def start(self):
        self._process = await asyncio.create_subprocess_exec(
            *("node", str(HERE / "reader.mjs"), CLIENT.as_uri(), str(MODULES)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=2**24,
        )
        async with asyncio.timeout(30):
            await self._process.stdout.readline()
        self._reading = asyncio.create_task(
            self._read_output(), name="reading the output of Node.js"
        )

    async def end(self):
        if self._process is not None:
            self._reading.cancel()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()

    @asynccontextmanager
    async def reading(self, reader, way):
        """Run *reader* there for the block; yields a future of the error that ends it."""
        number = next(self._numbers)
        failed = asyncio.get_running_loop().create_future()
        self._readers[number] = (reader, failed)
        plan, world = reader.plan, self._world
        urls = [f"{world.url(plan.conversation_id, service=n)}?limit=200" for n in (0, 1)]
        options = {"endpoint": "127.0.0.1", "port": world.channel_port, "tls": False}
        self._send(
            {
                "number": number,
                "way": way,
                "urls": urls,
                "token": world.token(plan.conversation_id),
                "channel": plan.conversation_id,
                "options": options,
            }
        )
        try:
            yield failed
        finally:
            del self._readers[number]
            failed.cancel()
            self._send({"number": number, "leave": True})

    def _send(self, command):
        if self._process.returncode is None:
            self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _read_output(self):
        async for line in self._process.stdout:
            output = json.loads(line)
            reader, failed = self._readers.get(output["number"], (None, None))
            if reader is None:
                continue
            if "error" in output:
                if not failed.done():
                    failed.set_result(output["error"])
            else:
                reader.show(output["messages"], excused=output["excused"])
        for _, failed in self._readers.values():
            if not failed.done():
                failed.set_exception(AssertionError("Node.js ended by itself"))
