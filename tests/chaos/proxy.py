"""Between everybody and the channel server: connections that can be made half-open."""

from __future__ import annotations

import asyncio
from contextlib import suppress

_PIECE = 65_536


class _Passing:
    """One connection that passes through."""

    def __init__(self):
        self.swallowed = False


class Proxy:
    """Passes bytes on, until they are swallowed: neither side learns that the other is gone.

    Args:
        port: where it listens.
        target: the port that it leads to.
    """

    def __init__(self, port, target):
        self._port = port
        self._target = target
        self._passing = set()
        self._tasks = set()
        self._server = None

    async def start(self):
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self._port)

    async def close(self):
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def swallow(self, chance, share):
        """Make a *share* of the connections half-open; new ones work. How many that were."""
        alive = [each for each in self._passing if not each.swallowed]
        chosen = [each for each in alive if chance.random() < share]
        for each in chosen:
            each.swallowed = True
        return len(chosen)

    async def _pass(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        passing = _Passing()
        self._passing.add(passing)
        behind = None
        try:
            there, behind = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.create_task(self._pump(passing, *way))
                for way in ((reader, behind), (there, writer))
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                if passing.swallowed:
                    await asyncio.Event().wait()  # nobody says goodbye
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the server is not there, so is the answer; or it is over
        finally:
            self._passing.discard(passing)
            self._tasks.discard(task)
            for each in (writer, behind):
                if each is not None:
                    each.transport.abort()

    async def _pump(self, passing, reader, writer):
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if not passing.swallowed:
                    writer.write(data)
                    await writer.drain()
