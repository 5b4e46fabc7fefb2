"""A TCP proxy whose connections a test can cut and allow again."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import urlsplit, urlunsplit


class TcpProxy:
    """Forwards bytes between its own port and the server of *url*.

    Attributes:
        url: *url* with the host and port of the proxy.
    """

    def __init__(self, url):
        self._parts = urlsplit(url)
        self._far = self._parts
        self._server = None
        self._port = 0
        self._ends = set()
        self._doomed = set()

    async def __aenter__(self):
        await self.connect()
        return self

    async def __aexit__(self, *_exc):
        await self.disconnect()

    @property
    def url(self):
        login = self._parts.netloc.rpartition("@")[0]
        return urlunsplit(self._parts._replace(netloc=f"{login}@127.0.0.1:{self._port}"))

    async def connect(self):
        """Accept connections (again), on the same port."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def disconnect(self):
        """Cut all connections; new ones are refused."""
        self._server.close()
        for end in list(self._ends):
            end.transport.abort()
        await asyncio.wait_for(self._server.wait_closed(), 10)

    def doom(self):
        """Cut each present connection when its client next sends something, unnoticed until then."""
        self._doomed |= self._ends
        return len(self._ends) // 2

    def leads_to(self, url):
        """New connections lead to the server of *url*."""
        self._far = urlsplit(url)

    async def _join(self, reader, writer):
        there = None
        try:
            far_reader, there = await asyncio.open_connection(self._far.hostname, self._far.port)
            self._ends |= {writer, there}
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pass_on(reader, there))
                both.create_task(self._pass_on(far_reader, writer))
        finally:
            for end in (writer, there):
                if end is not None:
                    end.transport.abort()
                    self._ends.discard(end)
                    self._doomed.discard(end)

    async def _pass_on(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            while (chunk := await reader.read(65_536)) and writer not in self._doomed:
                writer.write(chunk)
                await writer.drain()
        writer.transport.abort()
