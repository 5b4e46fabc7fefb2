"""A proxy before the channel server, whose connections can be made half-open."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_PIECE = 65_536


class _Forwarded:
    """A connection through the proxy."""

    def __init__(self):
        self.half_open = False


class Proxy:
    """Forwards bytes, and drops those of half-open connections, which neither side learns of.

    Args:
        port: the port on which it listens.
        target: the port to which it connects.
    """

    def __init__(self, port, target):
        self._port = port
        self._target = target
        self._connections = set()
        self._tasks = set()
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._forward, "127.0.0.1", self._port)

    async def close(self):
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def make_half_open(self, chance, share):
        """Make a *share* of the connections half-open; new ones work. Return how many that were."""
        alive = [each for each in self._connections if not each.half_open]
        chosen = [each for each in alive if chance.random() < share]
        for each in chosen:
            each.half_open = True
        return len(chosen)

    async def _forward(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        forwarded = _Forwarded()
        self._connections.add(forwarded)
        behind = None
        try:
            there, behind = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.create_task(self._pump(forwarded, *way))
                for way in ((reader, behind), (there, writer))
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                if forwarded.half_open:
                    await asyncio.Event().wait()  # neither side is closed
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is not reachable, or the test is over
        finally:
            self._connections.discard(forwarded)
            self._tasks.discard(task)
            for each in (writer, behind):
                if each is not None:
                    each.transport.abort()

    async def _pump(self, forwarded, reader, writer):
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if not forwarded.half_open:
                    writer.write(data)
                    await writer.drain()
